"A client of the TopstepX gateway: REST in `rest`, the two hubs in `hub`."
