"""SEG maps: what a <SEG> token, or any token, is similar to in the picture; as maps, points and masks, with their scores.

Invariants. A map is arithmetic on states that one trace holds: another layer, query or similarity runs no forward. Masks
and scores are those of one raster (:data:`lens.segmaps.maps.FINE` per patch side), so that what is drawn is what is scored.
"""
