"""How a program is cut over a mesh of devices: its dimensions named, plans priced, searched and applied."""
