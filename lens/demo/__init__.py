"""The offline demo model: its architecture, its assembly from published wheels, and the training of its connector."""
