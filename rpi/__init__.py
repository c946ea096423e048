"""What brings mbcore to a board: imported as ``mbcore.rpi``. Board profiles and the doctor are not built yet."""
