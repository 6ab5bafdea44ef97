"""The U-Net: building, training, prediction, and the models on disk."""
