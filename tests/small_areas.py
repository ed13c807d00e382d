"""Areas of two sectors, few of them in a journal: so that short files have all that long ones have."""

from ioflt.datastore.deep import retag
from ioflt.filters import tagfile, tagged
from ioflt.format.luks2 import tags


def small_areas(patch):
    """Until `patch`, a pytest.MonkeyPatch, is undone."""
    patch.setattr(tags, "AREA", 8192)
    patch.setattr(tags, "AREA_SECTORS", 2)
    patch.setattr(tags, "_GROUP_SECTORS", 2 * tags.GROUP_AREAS)
    patch.setattr(tagfile, "AREA_SECTORS", 2)
    patch.setattr(tagged, "AREA", 8192)
    patch.setattr(tagged, "AREA_SECTORS", 2)
    patch.setattr(retag, "AREA", 8192)
    patch.setattr(retag, "AREA_SECTORS", 2)
    patch.setattr(tagged, "_QUIET", 1)
    patch.setattr(tagged, "MAX_AREAS", 4)
    patch.setattr(tagged, "_AHEAD", 2)
