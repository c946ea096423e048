"""What brings mbcore to a board: profiles, ports, the doctor, the service. Imported as ``mbcore.rpi``, and only by what asks for it."""
