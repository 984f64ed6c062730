"""The tabs of the page: each lays itself out in `build`, and has its actions in a class of its own."""
