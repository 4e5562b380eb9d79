"""EmbedLens: sink, dead and alive visual tokens, found per model and tested causally.

The method is that of "What Do Visual Tokens Really Encode?" (arXiv 2603.00510) with its code (EIT-NLP/EmbedLens), made
portable: no vocabulary id is known beforehand, :mod:`lens.embedlens.discovery` finds each model's own anchors.
"""
