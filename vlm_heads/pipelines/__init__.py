"""Methods that let the model answer first and then ask it otherwise, one file each."""
