"""How good the images of a generator are: a fixed judge, and scores on what it sees."""
