"""Keys of model families and methods that this version does not train, so that their official files still load.

Of their values only the types are checked, and a value that differs from its default gives a warning. A family that
comes to be trained moves its keys to a file of its own.
"""

from dataclasses import replace

from swin.config.keys.key import Key
from swin.config.keys.model import SWIN, SWINV2

_GROUPS = {
    "MODEL.SWIN_MOE": {
        **SWIN,
        "PRETRAINED_WINDOW_SIZES": SWINV2["PRETRAINED_WINDOW_SIZES"],
        "MLP_FC2_BIAS": Key(True).means("A bias in the MLP's second linear layer."),
        "INIT_STD": Key(0.02).means("Standard deviation of the weight initialisation."),
        "MOE_BLOCKS": Key([[-1], [-1], [-1], [-1]]).means("For each stage, the blocks with experts; -1 for none."),
        "NUM_LOCAL_EXPERTS": Key(1).means("Experts on each device; -n divides one expert among n devices."),
        "TOP_VALUE": Key(1).means("Experts that each token is sent to."),
        "CAPACITY_FACTOR": Key(1.25).means("Room of an expert as a multiple of its even part of the tokens."),
        "COSINE_ROUTER": Key(False).means("Route by cosine similarity rather than by a linear layer."),
        "NORMALIZE_GATE": Key(False).means("Make the chosen gates sum to 1."),
        "USE_BPR": Key(True).means("Serve the most confident tokens of the batch first when an expert is full."),
        "IS_GSHARD_LOSS": Key(False).means("GShard's balance loss instead of the importance and load losses."),
        "GATE_NOISE": Key(1.0).means("Scale of the router's noise in training; 0 for none."),
        "COSINE_ROUTER_DIM": Key(256).means("Width of the cosine router's projection."),
        "COSINE_ROUTER_INIT_T": Key(0.5).means("The cosine router's first temperature."),
        "MOE_DROP": Key(0.0).means("Dropout inside the experts."),
        "AUX_LOSS_WEIGHT": Key(0.01).means("Weight of the balance loss."),
    },
    "TRAIN.MOE": {"SAVE_MASTER": Key(False).means("Save the shared weights once rather than on every device.")},
}

FAMILIES = {
    f"{group}.{name}": replace(key, between="", is_per_stage=False, has_effect=False)
    for group, keys in _GROUPS.items()
    for name, key in keys.items()
}
