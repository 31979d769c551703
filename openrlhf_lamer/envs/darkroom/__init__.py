"""A dark room with a hidden goal: `env` has the environment, `optimum` what the best player wins, `grid` the cells."""
