"""`fewstep shapes`: tables of the embedded world, whose clips its own judge can read."""
