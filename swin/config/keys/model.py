"""MODEL: the model, its weights and its regularisation."""

from swin.config.keys.key import Key

SWIN = {
    "PATCH_SIZE": Key(4, between="[1, 1e5]").means("""
        Side of a patch in pixels. With the number of stages it sets the total stride: 4 and 4 stages give 32."""),
    "IN_CHANS": Key(3, between="[1, 1000]").means("""
        Channels of an image: 1 reads it as grayscale, 3 as RGB, 4 as RGBA; any other number is read from .npy files
        with uint8 arrays of shape (H, W, channels). DATA.MEAN and DATA.STD need as many values."""),
    "EMBED_DIM": Key(96, between="[1, 1e5]").means("""
        Width of the first stage; each further stage doubles it. Parameters and work grow with its square."""),
    "DEPTHS": Key([2, 2, 6, 2], between="[1, 1000]", is_per_stage=True).means("""
        Blocks in each stage; the length is the number of stages. Every second block of a stage shifts its windows."""),
    "NUM_HEADS": Key([3, 6, 12, 24], between="[1, 1e5]", is_per_stage=True).means("""
        Attention heads in each stage, as many as DEPTHS; each divides its stage's width, EMBED_DIM * 2**stage."""),
    "WINDOW_SIZE": Key(7, between="[1, 1000]").means("""
        Side of an attention window in tokens. Attention costs grow with its square, and so does the bias table."""),
    "MLP_RATIO": Key(4.0, between="(0, 1000]").means("Hidden width of the MLP as a multiple of the stage's width."),
    "APE": Key(False).means("""
        Adds a learned absolute position embedding; its shape then depends on DATA.IMG_SIZE."""),
    "PATCH_NORM": Key(True).means("LayerNorm after the patch embedding."),
    "QKV_BIAS": Key(True).means("A bias in the linear layer that makes queries, keys and values."),
    "QK_SCALE": Key(None, "null|float", "(0, 1000]").means("Multiplies q k^T; null is head_dim ** -0.5."),
}

SWINV2 = {
    **{name: key for name, key in SWIN.items() if name != "QK_SCALE"},
    "PRETRAINED_WINDOW_SIZES": Key([0, 0, 0, 0], between="[0, 1000]").means("""
        For each stage, the window in which the weights of PRETRAINED learned what a distance means, where WINDOW_SIZE
        or DATA.IMG_SIZE make it another one: [12, 12, 12, 6] for the published 192 px models. 0 for the same."""),
    "EXTRA_NORM_EVERY": Key(0, between="[0, 1000]", is_new=True).means("""
        One more LayerNorm after every so many blocks of a stage; 0 for none. The huge and giant models have 6."""),
}
SWIN_MLP = {name: key for name, key in SWIN.items() if name not in ("QKV_BIAS", "QK_SCALE")}

# The group of each family's keys, below MODEL, by MODEL.TYPE.
GROUP_OF_TYPE = {"swin": "SWIN", "swinv2": "SWINV2", "swin_mlp": "SWIN_MLP"}

MODEL = {
    "TYPE": Key("swin", one_of=tuple(GROUP_OF_TYPE)).means("""
        Model family, whose keys are then those of MODEL.SWIN, MODEL.SWINV2 or MODEL.SWIN_MLP: swin (Swin Transformer),
        swinv2 (Swin Transformer V2) or swin_mlp (Swin-MLP)."""),
    "VARIANT": Key("", is_new=True).means("""
        A published model, as swin_tiny or swinv2_base (docs/models.md lists them): gives TYPE, EMBED_DIM, DEPTHS,
        NUM_HEADS and WINDOW_SIZE of its family, DATA.IMG_SIZE and MODEL.NAME the values that it has, unless a file,
        option or flag gives them. Regularisation such as DROP_PATH_RATE stays the recipe's. "" for none."""),
    "NAME": Key("swin_tiny_patch4_window7_224", is_folder=True).means("""
        Name of the run's folder below OUTPUT; it does not choose the architecture, which VARIANT does."""),
    "PRETRAINED": Key("", is_path=True, flag="pretrained").means("""
        Weight file to start from ("" for none), or hf-hub:OWNER/NAME for one of the Hugging Face hub: tables and heads
        are fitted to it. Ignored by a run that resumes."""),
    "RESUME": Key("", is_path=True, flag="resume").means("""
        Checkpoint to continue, or to evaluate with EVAL_MODE ("" for none). Wins over TRAIN.AUTO_RESUME."""),
    "NUM_CLASSES": Key(1000, between="[1, 1e9]").means("""
        Number of classes. Leave it out: the data set knows. Where given, a data set that disagrees is an error."""),
    "DROP_RATE": Key(0.0, between="[0, 1)").means("""
        Dropout after the patch embedding, in the MLPs and after the attention projection."""),
    "DROP_PATH_RATE": Key(0.1, between="[0, 1)").means("""
        Stochastic depth of the last block; it grows linearly from 0 at the first. Larger models want more."""),
    "LABEL_SMOOTHING": Key(0.1, between="[0, 1)").means("""
        Fraction of the target that is spread over all classes. Training losses then do not go down to 0. Of several
        labels an image each gives up this fraction; with TRAIN.LOSS asl the other classes get nothing of it."""),
    "ATTENTION": Key("auto", one_of=("auto", "eager", "sdpa"), retired=("cpu", "triton"), is_new=True).means("""
        Window attention by eager (plain operations, the reference), sdpa (PyTorch's fused scaled_dot_product_attention)
        or auto: sdpa, but eager where gradients are recorded on a CPU, which is faster there. All give the same numbers
        up to rounding. The cpu and triton of earlier versions are read as auto."""),
    "LORA.RANK": Key(0, between="[0, 1e4]", is_new=True).means("""
        Fine-tuning: train low-rank adapters of this rank (arXiv 2106.09685) and the head, and nothing else; 0 for none.
        8 is usual. Needs `pip install "swin-trainer[lora]"`. What reads the checkpoint sees the plain model."""),
    "LORA.ALPHA": Key(16, between="[1, 1e6]", is_new=True).means("""
        What adapters add to a matrix, the product of their two, is multiplied by ALPHA / RANK: doubling ALPHA acts
        about as doubling the adapters' learning rate."""),
    "LORA.MODULES": Key(["*.attn.*", "*.mlp.*"], is_new=True).means("""
        Patterns for names of the linear layers that get adapters, as `["*.attn.qkv"]`."""),
    "SIMMIM.NORM_TARGET.ENABLE": Key(False).means("""
        TRAIN.LOSS simmim: predict pixels less the mean around them, divided by the deviation there, as Swin V2's
        pre-training does."""),
    "SIMMIM.NORM_TARGET.PATCH_SIZE": Key(47, between="[3, 1e5]").means("""
        Side of the square around a pixel, an odd number of pixels."""),
    **{f"SWIN.{name}": key for name, key in SWIN.items()},
    **{f"SWINV2.{name}": key for name, key in SWINV2.items()},
    **{f"SWIN_MLP.{name}": key for name, key in SWIN_MLP.items()},
}
