"""Where an image comes in: from any source to one array of images with labels and splits."""
