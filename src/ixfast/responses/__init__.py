"""Response texts and the bodies of replies."""
