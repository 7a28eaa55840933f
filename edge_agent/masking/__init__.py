"""Masking: pictures in, masked pictures out. Pure but for numpy and cv2."""
