"""LatentLens: corpus → index → neighbours.

A token's meaning is read off the *contextual* text states it is nearest to (arXiv 2602.00462). :mod:`lens.backend.corpus`
streams sentences, :mod:`contexts` decides which occurrences of a token are kept, :mod:`build` encodes them once through
the language model and packs one FAISS file a layer, :mod:`index` opens such a folder safely, :mod:`search` finds
neighbours.
"""
