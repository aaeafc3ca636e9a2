"""What the paper reports of each method: top-1 in %, on the first split of the validation videos.

Xiao et al., "Learning from Temporal Gradient for Semi-supervised Action Recognition", CVPR 2022: Table 2, and for
FixMatch the first row of Table 1.  The authors ran MvPL again themselves, with RGB and temporal gradients; of the
methods before it they quote others.
"""

SETTINGS = {
    "k400-1pct": "Kinetics-400 1 %",
    "k400-10pct": "Kinetics-400 10 %",
    "ucf101-5pct": "UCF-101 5 %",
    "ucf101-10pct": "UCF-101 10 %",
    "ucf101-20pct": "UCF-101 20 %",
    "ucf101-50pct": "UCF-101 50 %",
    "hmdb51-40pct": "HMDB-51 40 %",
    "hmdb51-50pct": "HMDB-51 50 %",
    "hmdb51-60pct": "HMDB-51 60 %",
}
"""By recipe, the data set and the share of labels."""

_TABLE = {
    "pseudo_label": (6.3, None, 17.6, 24.7, 37.0, 47.5, 27.3, 32.4, 33.5),
    "mean_teacher": (6.8, 19.5, 17.5, 25.6, 36.3, 45.8, 27.2, 30.4, 32.2),
    "s4l": (6.3, None, 22.7, 29.1, 37.7, 47.9, 29.8, 31.0, 35.6),
    "ups": (None, None, None, None, 39.4, 50.2, None, None, None),
    "videossl": (None, 33.8, 32.4, 42.0, 48.7, 54.3, 32.7, 36.2, 37.0),
    "tcl": (7.7, None, None, None, None, None, None, None, None),
    "actor_cutmix": (None, None, 27.0, 40.2, 51.7, 59.9, 32.9, 38.2, 38.9),
    "mvpl": (5.0, 36.9, 41.2, 55.5, 64.7, 65.6, 30.5, 33.9, 35.8),
    "fixmatch": (5.4, 40.2, None, 38.4, 54.1, None, None, 37.8, None),
    "temporal_gradient": (9.8, 43.8, 44.8, 62.4, 76.1, 79.3, 46.5, 48.4, 49.7),
}
TOP1 = {method: dict(zip(SETTINGS, row, strict=True)) for method, row in _TABLE.items()}
"""By method and recipe; None where the paper has no number."""

BACKBONES = {"tcl": "R3D(TSM)-18", "actor_cutmix": "R(2+1)D-34"}
"""Of the methods whose numbers are not of an R3D-18."""
