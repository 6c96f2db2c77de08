"""The pair of `make up` on tasks with exact answers: each tier alone, routed, at random, in a cascade."""
