"""Pages to look at: documents and pictures in, one HTML file out, which holds everything and fetches nothing."""
