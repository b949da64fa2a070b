"""Where an image comes in: from any source to one array of pictures with labels and splits."""
