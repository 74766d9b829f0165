"""Wrong lines planted into the source, one at a time: the tests must notice each."""
