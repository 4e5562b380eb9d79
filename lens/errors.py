"""Every error that a user can cause.

Each is named for what is wrong and carries one sentence: what was found, what was expected, what to do. Pages show
that sentence as a message; the command line prints it to stderr and exits with status 2. Any other exception is a bug.
"""

from __future__ import annotations


class LensError(Exception):
    """Base of all errors meant for a reader."""


class ImageUnreadable(LensError):
    """The bytes are no image that can be decoded, or they end too early."""


class ImageTooLarge(LensError):
    """The image declares more pixels, or consists of more parts, than are decoded here; found before decoding."""


class PromptUnusable(LensError):
    """The prompt is empty or longer than the model's context."""


class PatchOutsideGrid(LensError):
    """A row, column or region lies outside the image's patch grid."""


class LayerMissing(LensError):
    """A layer that the model, the trace or the index doesn't have."""


class SiteMissing(LensError):
    """A site that was not captured in this trace."""


class CapabilityMissing(LensError):
    """The model has no such part (say, a text-only model asked for its vision tower)."""


class StatesUnusable(LensError):
    """States hold NaN, infinities or zero vectors, for which a cosine is undefined."""


class ModelMissing(LensError):
    """No such model in the catalog, on disk or on the hub."""


class ModelUnreadable(LensError):
    """The model's files are there but can't be loaded."""


class ModelFailed(LensError):
    """The model's own code raised: its files don't fit one another, or not this input."""


class TemplateUnusable(LensError):
    """A model's chat template raises, runs on, or leaves out what it is given."""


class MemoryExhausted(LensError):
    """A model found too little memory for what it was asked."""


class CatalogInvalid(LensError):
    """A row of a user's catalog file is wrong; names the file and the key."""


class TokenUnknown(LensError):
    """A token of the tokenizer for which the model has no embedding."""


class CorpusUnreadable(LensError):
    """The corpus is missing, of an unknown kind, empty, or lacks the named column."""


class IndexMissing(LensError):
    """There is no index at the path or under the name."""


class IndexDamaged(LensError):
    """A file of the index is missing, truncated or altered, or its format version is unknown."""


class IndexMismatch(LensError):
    """The index was built from another model, or another corpus, than the one it is used with."""


class IndexUnfinished(LensError):
    """The folder holds an index whose build was interrupted, or a build that can't be resumed as asked."""


class ProvisioningFailed(LensError):
    """The offline model could not be fetched or assembled."""


class ExportFailed(LensError):
    """A figure or table could not be written."""


class Cancelled(LensError):
    """The user cancelled long work; what was done so far is kept."""


class ImagesMissing(LensError):
    """A folder that holds no readable image, or fewer than the work needs."""


class AnchorsUnreadable(LensError):
    """A file of EmbedLens anchors is missing, damaged or of an unknown format."""


class AnchorsMismatch(LensError):
    """EmbedLens anchors of another model than the one they are used with."""


class ControlsImpossible(LensError):
    """Fewer tokens are left over than a matched control needs."""


class FeaturesUnreadable(LensError):
    """A sparse autoencoder is missing, damaged, or of a format or variant that can't be computed exactly."""


class FeaturesMismatch(LensError):
    """Features of another model or width, or of a place that this model doesn't have."""


class TokenMissing(LensError):
    """A token that never occurs in the corpus."""


class GraphMissing(LensError):
    """There is no feature graph at the path, under the name or for the model, or none of these features."""


class GraphDamaged(LensError):
    """A file of a feature graph is missing, truncated or altered, or its format version is unknown."""


class GraphMismatch(LensError):
    """The feature graph was built from another model or other features than those it is used with."""


class GraphUnfinished(LensError):
    """The folder holds a feature graph whose build was interrupted, or one that can't be resumed as asked."""


class BenchUnreadable(LensError):
    """A file of benchmark results is missing, damaged or of an unknown format."""


class MaskUnusable(LensError):
    """A mask that can't be read, is empty, or belongs to a picture of another size."""


class QueryMissing(LensError):
    """A query for a similarity map that isn't in the text, such as a word or a <SEG> token."""


class MapConstant(LensError):
    """A similarity map that is the same everywhere, so that it has no order, no points and no threshold."""


class SegmenterMissing(LensError):
    """No checkpoint of a segmenter (SAM) is on disk, or it can't be read."""


class ConversionFailed(LensError):
    """A checkpoint in its authors' own layout that can't be converted: another layout, damaged, incomplete, or no room."""


class LabelsUnusable(LensError):
    """Labels of pictures that can't be read, contradict themselves, or belong to other pictures than those there."""


class DeviceUnusable(LensError):
    """A device to compute on that torch doesn't know, wasn't built for, or can't reach."""


class FolderForbidden(LensError):
    """A visitor named a folder that the owner of the machine has not opened to visitors."""
