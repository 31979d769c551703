"""WebShop (Yao et al., 2022) in one process: no Java, no web server, no browser.

`synthetic` makes a catalogue from a seed and `source` reads the original's files; both give the
same rows. `compiling` turns rows into a `shop.Shop`, in memory or on disk (`stored`). A shop is
immutable and shared: `stemming` and `ranking` search it, `scoring` pays for a purchase, `session` is one
shopper's way through its pages, and `env.WebShop` makes that an environment.
"""
