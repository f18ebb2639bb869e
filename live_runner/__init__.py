"The deployable half of mesbot: a client of the TopstepX gateway, a simulated gateway that real clients cannot tell from it, and what trades through them."
