"""How a step is run: on threads, in memory that stays, captured as a graph, on several processes."""
