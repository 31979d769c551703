"""Sokoban: the environment (`env`), its levels (`levels`), boards as bits (`room`), lost positions (`solver`)."""
