"""The one configuration tree: every key, its default, and what happens when it is changed.

Keys, meanings and defaults of the official Swin Transformer repository are kept, so that its YAML files load unchanged;
keys of this project stand beside them and are marked [new]. A key's type is that of its default unless `KINDS` says
more; legal.py and validate.py refuse what is out of range. Probabilities are in [0, 1].
"""

from typing import Any

# What the four model families share. The values are those of Swin-T.
_FAMILY: dict[str, Any] = {
    # Side of a patch in pixels. Together with the number of stages it sets the total stride: 4 and 4 stages give 32.
    "PATCH_SIZE": 4,
    # Channels of an image: 1 reads it as grayscale, 3 as RGB, 4 as RGBA; any other number is read from .npy files with
    # uint8 arrays of shape (H, W, channels). DATA.MEAN and DATA.STD need as many values.
    "IN_CHANS": 3,
    # Width of the first stage; each further stage doubles it. Parameters and work grow with its square.
    "EMBED_DIM": 96,
    # Blocks in each stage; the length is the number of stages. Every second block of a stage shifts its windows.
    "DEPTHS": [2, 2, 6, 2],
    # Attention heads in each stage, as many values as DEPTHS; each must divide its stage's width, EMBED_DIM * 2**stage.
    "NUM_HEADS": [3, 6, 12, 24],
    # Side of an attention window in tokens. Attention costs grow with its square, and so does the bias table.
    "WINDOW_SIZE": 7,
    # Hidden width of the MLP as a multiple of the stage's width.
    "MLP_RATIO": 4.0,
    # Adds a learned absolute position embedding; its shape then depends on DATA.IMG_SIZE.
    "APE": False,
    # LayerNorm after the patch embedding.
    "PATCH_NORM": True,
}

_MODEL: dict[str, Any] = {
    # Model family. This version trains "swin" (Swin Transformer V1); the other families' keys are accepted for loading.
    "TYPE": "swin",
    # Name of the run's folder below OUTPUT; it does not choose the architecture.
    "NAME": "swin_tiny_patch4_window7_224",
    # Weight file to start from ("" for none): tables and heads are fitted to this model. Ignored when a run resumes.
    "PRETRAINED": "",
    # Checkpoint to continue, or to evaluate with EVAL_MODE ("" for none). Wins over TRAIN.AUTO_RESUME.
    "RESUME": "",
    # Number of classes. Leave it out: the data set knows. Where it is given, a data set that disagrees is an error.
    "NUM_CLASSES": 1000,
    # Dropout after the patch embedding, in the MLPs and after the attention projection, in [0, 1).
    "DROP_RATE": 0.0,
    # Stochastic depth of the last block, in [0, 1); it grows linearly from 0 at the first. Larger models want more.
    "DROP_PATH_RATE": 0.1,
    # Share of the target spread over all classes, in [0, 1). Training losses then do not go down to 0.
    "LABEL_SMOOTHING": 0.1,
    # [new] Window attention: auto (the fastest that fits the device), eager (reference), sdpa (PyTorch's fused
    # one), cpu (made for CPUs) or triton (one fused kernel on CUDA). All give the same numbers up to rounding.
    "ATTENTION": "auto",
    # Swin Transformer V1. QK_SCALE multiplies q k^T; null is head_dim ** -0.5. QKV_BIAS gives that linear layer a bias.
    "SWIN": {**_FAMILY, "QKV_BIAS": True, "QK_SCALE": None},
    # Swin Transformer V2. PRETRAINED_WINDOW_SIZES: window of each stage in pre-training, 0 when trained from scratch.
    "SWINV2": {**_FAMILY, "QKV_BIAS": True, "PRETRAINED_WINDOW_SIZES": [0, 0, 0, 0]},
    # Swin-MLP, without attention.
    "SWIN_MLP": {**_FAMILY},
    # Swin with mixtures of experts.
    "SWIN_MOE": {
        **_FAMILY,
        "QKV_BIAS": True,
        "QK_SCALE": None,
        "PRETRAINED_WINDOW_SIZES": [0, 0, 0, 0],
        "MLP_FC2_BIAS": True,  # a bias in the MLP's second linear layer
        "INIT_STD": 0.02,  # standard deviation of the weight initialisation
        "MOE_BLOCKS": [[-1], [-1], [-1], [-1]],  # for each stage, the blocks with experts; -1 for none
        "NUM_LOCAL_EXPERTS": 1,  # experts on each device; -n shares one expert among n devices
        "TOP_VALUE": 1,  # experts that each token is sent to
        "CAPACITY_FACTOR": 1.25,  # room of an expert as a multiple of its even share of tokens
        "COSINE_ROUTER": False,  # route by cosine similarity rather than by a linear layer
        "NORMALIZE_GATE": False,  # make the chosen gates sum to 1
        "USE_BPR": True,  # serve the most confident tokens of the batch first when an expert is full
        "IS_GSHARD_LOSS": False,  # GShard's balance loss instead of the importance and load losses
        "GATE_NOISE": 1.0,  # scale of the router's noise in training; 0 for none
        "COSINE_ROUTER_DIM": 256,  # width of the cosine router's projection
        "COSINE_ROUTER_INIT_T": 0.5,  # the cosine router's first temperature
        "MOE_DROP": 0.0,  # dropout inside the experts
        "AUX_LOSS_WEIGHT": 0.01,  # weight of the balance loss
    },
    # SimMIM pre-training. NORM_TARGET normalises the target pixels over a neighbourhood of PATCH_SIZE pixels (odd).
    "SIMMIM": {"NORM_TARGET": {"ENABLE": False, "PATCH_SIZE": 47}},
}

_DATA: dict[str, Any] = {
    # Images of one device in one forward pass. The effective batch is this x devices x TRAIN.ACCUMULATION_STEPS: 128 on
    # 8 devices is 1024, and learning rates scale with it (TRAIN.LR_REFERENCE_BATCH).
    "BATCH_SIZE": 128,
    # Folder of the data set, in any of these layouts: train/ and val/ with one folder a class; one folder of class
    # folders (see VAL_SPLIT); train.csv and val.csv (or .tsv) with a path and a label on each line; the shards of
    # tools.pack_dataset; CUB-200-2011 as distributed; train.zip, train_map.txt, val.zip and val_map.txt (see ZIP_MODE).
    "DATA_PATH": "",
    # imagenet or folder (the same: DATA_PATH in any layout), digits (scikit-learn's, embedded, no download), or
    # imagenet22K (DATA_PATH with the official ILSVRC2011fall_whole_map_train.txt and _val.txt: JSON of [path, label])
    "DATASET": "imagenet",
    # Size of the images the model sees, in pixels: one number, or [height, width]. Any size works; a warning says which
    # sizes fit the windows without padding.
    "IMG_SIZE": 224,
    # Resizing: bicubic, bilinear, nearest, lanczos, or random (bilinear or bicubic by lot in training, bilinear in
    # evaluation).
    "INTERPOLATION": "bicubic",
    # Read train.zip and val.zip, each with a `*_map.txt` of path<TAB>label lines, instead of folders. Such a set has
    # its own validation part, so VAL_SPLIT must stay 0.
    "ZIP_MODE": False,
    # With ZIP_MODE, what each process keeps in memory: no, full (all files: what avoids reads) or part (of N processes,
    # each keeps 1/N of the files; the order is shuffled over all of them, so only 1/N of the reads find theirs kept).
    "CACHE_MODE": "part",
    # Page-locked host memory for faster copies to the device; used with CUDA only.
    "PIN_MEMORY": True,
    # Worker processes that decode images, for each device; 0 decodes in the training process. The batches are the same.
    "NUM_WORKERS": 8,
    # [new] Share of a single folder of class folders that is held out for validation, in [0, 1): drawn by SEED, the
    # same share of every class. 0 expects train/ and val/.
    "VAL_SPLIT": 0.0,
    # [new] Mean and standard deviation of each of the IN_CHANS channels, on a scale from 0 to 1. ImageNet's.
    "MEAN": [0.485, 0.456, 0.406],
    "STD": [0.229, 0.224, 0.225],
    # [new] Turn images as their EXIF orientation says. The official recipe does not, and its weights are used to that.
    "EXIF": False,
    # [new] What to do about training images that cannot be read: raise ends the run; skip takes the next image of the
    # data set instead, says so, and ends the run only after MAX_ERRORS different files. Validation always raises.
    "ON_ERROR": "raise",
    "MAX_ERRORS": 100,
    # [new] shuffle (each image once an epoch), or balanced (as many draws, the same number from every class: images of
    # small classes come several times, not all of large ones come).
    "SAMPLER": "shuffle",
    # [new] Repeated augmentation: each image drawn comes this many times in a row, augmented differently, and an epoch
    # shows that many times fewer of them. 1 for none; DeiT has 3, torchvision's recipe 4.
    "REPEATED_AUG": 1,
    # SimMIM: side of a masked patch in pixels, and the share of the image that is masked.
    "MASK_PATCH_SIZE": 32,
    "MASK_RATIO": 0.6,
}

_TRAIN: dict[str, Any] = {
    # Epoch that a run without a checkpoint counts from; a resumed run takes its own from the checkpoint.
    "START_EPOCH": 0,
    # Passes over the training set. The schedule spans them, so a change changes every learning rate but the first.
    "EPOCHS": 300,
    # Epochs of linear warm-up from WARMUP_LR to the peak; fewer than EPOCHS.
    "WARMUP_EPOCHS": 20,
    # Decoupled weight decay. Biases, norms, relative-position-bias tables and absolute position embeddings have none.
    "WEIGHT_DECAY": 0.05,
    # Peak, first and last learning rate for an effective batch of LR_REFERENCE_BATCH images.
    "BASE_LR": 5e-4,
    "WARMUP_LR": 5e-7,
    "MIN_LR": 5e-6,
    # [new] Effective batch that the three rates above are meant for: they are multiplied by effective batch / this. 0
    # uses them as written.
    "LR_REFERENCE_BATCH": 512,
    # Largest norm of the whole gradient; longer ones are scaled down to it. 0 turns clipping off.
    "CLIP_GRAD": 5.0,
    # Continue from the newest checkpoint in the run's folder. MODEL.RESUME wins over it; evaluation never does it.
    "AUTO_RESUME": True,
    # Micro-batches summed into one update: the effective batch grows as many times, the memory does not.
    "ACCUMULATION_STEPS": 1,
    # Recompute activations in the backward pass: much less memory, about a third more time, the same gradients.
    "USE_CHECKPOINT": False,
    # [new] Compile the model with torch.compile: off, default, or max-autotune, which searches longer. Needs a C++
    # compiler on a CPU and Triton on a GPU; the first step takes a minute or more. --throughput compiles as well.
    "COMPILE": "off",
    # [new] ce (softmax cross-entropy) or bce (one sigmoid a class).
    "LOSS": "ce",
    # [new] none, or balanced: a sample's loss is weighted by how much rarer its class is than the average one.
    "CLASS_WEIGHTS": "none",
    # [new] Consecutive updates with an infinite or NaN loss or gradient (each is skipped) after which training stops.
    "MAX_NONFINITE": 10,
    # [new] How often, at most, such a run goes back to its last good checkpoint instead and goes on with half the
    # learning rate; 0 ends it at once.
    "ROLLBACK": 0,
    # Fine-tuning: factor on the learning rate for each block further from the head, in (0, 1]; 1 for none. With 0.8 and
    # Swin-T's 12 blocks the head learns at the full rate, the last block at 0.8 and the patch embedding at 0.055 of it.
    "LAYER_DECAY": 1.0,
    # [new] What is not trained: numbers of stages, counted from 0, as [0, 1]; or patterns for names of parameters or of
    # what holds them, as [patch_embed, layers.0, "*.attn.*"]. Modules that are frozen whole have no dropout and no
    # stochastic depth either.
    "FREEZE": [],
    "LR_SCHEDULER": {
        # cosine, linear, constant, step or multistep, stepped once an update.
        "NAME": "cosine",
        # step: epochs between two decays, and the factor of each.
        "DECAY_EPOCHS": 30,
        "DECAY_RATE": 0.1,
        # cosine: the warm-up is taken off the front and the cosine starts after it; False runs the cosine from update 0
        # and lets the warm-up hide its beginning.
        "WARMUP_PREFIX": True,
        # multistep: the factor, and the epochs (counted from the start, increasing) at which it is applied.
        "GAMMA": 0.1,
        "MULTISTEPS": [],
    },
    "OPTIMIZER": {
        "NAME": "adamw",  # adamw, or sgd (with Nesterov momentum)
        "EPS": 1e-8,  # adamw: added to the denominator
        "BETAS": (0.9, 0.999),  # adamw: decay of the two moments, each in [0, 1)
        "MOMENTUM": 0.9,  # sgd, in [0, 1)
    },
    # [new] Exponential moving average of the weights, evaluated and saved beside them. DECAY in [0, 1): 0.9999 averages
    # over about 10,000 updates, so short runs want less.
    "EMA": {"ENABLE": False, "DECAY": 0.9999},
    # Mixtures of experts: save the shared weights once rather than on every device.
    "MOE": {"SAVE_MASTER": False},
}

_AUG: dict[str, Any] = {
    # Largest change of brightness, contrast and saturation; 0 for none. Not used together with AUTO_AUGMENT.
    "COLOR_JITTER": 0.4,
    # Policy in timm's notation: rand-..., augmix-..., original, originalr, v0, v0r, 3a; ta_wide (torchvision's
    # TrivialAugment); or none.
    "AUTO_AUGMENT": "rand-m9-mstd0.5-inc1",
    # Random erasing: probability; fill (pixel: noise, rand: one random colour, const: zeros); number of rectangles.
    "REPROB": 0.25,
    "REMODE": "pixel",
    "RECOUNT": 1,
    # Mixup and cutmix: parameter of the Beta distribution of the shares; 0 turns that one off.
    "MIXUP": 0.8,
    "CUTMIX": 1.0,
    # [low, high] share of the image's sides that cutmix pastes, 0 <= low < high <= 1, instead of one drawn by CUTMIX's
    # rule; turns cutmix on. null for none.
    "CUTMIX_MINMAX": None,
    # Probability that a batch is mixed at all, and, where both are on, that it is cutmix rather than mixup.
    "MIXUP_PROB": 1.0,
    "MIXUP_SWITCH_PROB": 0.5,
    # Draw the share once for each batch, pair (an image and its partner) or elem (image).
    "MIXUP_MODE": "batch",
    # [new] Probability of a horizontal and of a vertical flip. 0 where left and right matter, as in digits and text.
    "HFLIP": 0.5,
    "VFLIP": 0.0,
    # [new] Random resized crop: area as a share of the image, in (0, 1], and width / height, each [low, high].
    "SCALE": [0.08, 1.0],
    "RATIO": [0.75, 1.3333333333333333],
    # [new] With an IMG_SIZE of 32 or less there is no random resized crop: images are resized to IMG_SIZE and cropped
    # from a copy padded by this many pixels on each side. SCALE and RATIO then have no effect.
    "CROP_PADDING": 4,
}

DEFAULTS: dict[str, Any] = {
    # Files that this one starts from, relative to it, in order; later ones and the file itself win. Only in YAML files.
    "BASE": [""],
    "DATA": _DATA,
    "MODEL": _MODEL,
    "TRAIN": _TRAIN,
    "AUG": _AUG,
    "TEST": {
        # Resize the short side to 256/224 of IMG_SIZE and crop the centre; False resizes straight to IMG_SIZE, as is
        # always done for sizes of 32 or less.
        "CROP": True,
        "SEQUENTIAL": False,  # deprecated, see DEPRECATED
        "SHUFFLE": False,  # deprecated
    },
    # Mixed precision; False computes everything in float32.
    "AMP_ENABLE": True,
    # [new] auto (bf16 where the device is fast at it, else fp16 on CUDA), bf16, or fp16 (CUDA only, with loss scaling).
    "AMP_DTYPE": "auto",
    # [new] On CUDA, float32 matrix products in TensorFloat-32: about 3 decimal digits instead of 7, several times as
    # fast. It matters where AMP is off; no effect on other devices.
    "TF32": False,
    # [new] auto (CUDA, else MPS, else CPU), cpu, mps, cuda or cuda:N.
    "DEVICE": "auto",
    # A run writes <OUTPUT>/<MODEL.NAME>/<TAG>/; a new TAG is a new run. OUTPUT "" is ./output.
    "OUTPUT": "",
    "TAG": "default",
    # Epochs between two checkpoints; the last epoch is always saved.
    "SAVE_FREQ": 1,
    # [new] Updates between two further checkpoints inside an epoch; 0 for none. What a crash can lose on long epochs.
    # Training pauses only while the state is copied: writing it happens in the background.
    "SAVE_FREQ_STEPS": 0,
    # [new] Minutes between two further checkpoints, beside those of SAVE_FREQ_STEPS; 0 for none. 0.5 is 30 seconds.
    "SAVE_MINUTES": 0.0,
    # [new] Newest checkpoints to keep, besides the best.
    "SAVE_KEEP": 3,
    # [new] Epochs between two evaluations; the last epoch is always evaluated.
    "EVAL_FREQ": 1,
    # Updates between two log lines. The only place where training waits for the device to report.
    "PRINT_FREQ": 10,
    # Seed of weights, order, augmentation and VAL_SPLIT.
    "SEED": 0,
    # Only evaluate, or only measure inference throughput, instead of training.
    "EVAL_MODE": False,
    "THROUGHPUT_MODE": False,
    # [new] Seconds after which a collective that another process never joins is an error.
    "DIST_TIMEOUT": 1800,
    # Deprecated, see DEPRECATED.
    "ENABLE_AMP": False,
    "AMP_OPT_LEVEL": "",
    "LOCAL_RANK": 0,
    "FUSED_WINDOW_PROCESS": False,
    "FUSED_LAYERNORM": False,
}

# Types of the keys whose default does not tell all: alternatives by "|", lists in brackets.
KINDS: dict[str, str] = {
    "BASE": "[str]|str",
    "DATA.IMG_SIZE": "int|[int]",
    "MODEL.SWIN.QK_SCALE": "null|float",
    "MODEL.SWIN_MOE.QK_SCALE": "null|float",
    "TRAIN.FREEZE": "[int]|[str]",
    "TRAIN.LR_SCHEDULER.MULTISTEPS": "[int]",
    "AUG.CUTMIX_MINMAX": "null|[float]",
}

# Keys of the official repository that have no effect here: accepted, with a warning that says what to do instead.
DEPRECATED: dict[str, str] = {
    "AMP_OPT_LEVEL": "Apex is not used; set AMP_ENABLE (True or False) and AMP_DTYPE instead",
    "ENABLE_AMP": "set AMP_ENABLE instead",
    "LOCAL_RANK": "torchrun gives it to each process; remove it",
    "FUSED_WINDOW_PROCESS": "no extension needs compiling; set MODEL.ATTENTION instead",
    "FUSED_LAYERNORM": "PyTorch's LayerNorm is used; remove it",
    "TEST.SEQUENTIAL": "evaluation is always in order and unpadded; remove it",
    "TEST.SHUFFLE": "evaluation is always in order and unpadded; remove it",
}

# Keys, or groups of keys, of other model families and programs: a warning when one differs from its default.
WITHOUT_EFFECT: tuple[str, ...] = (
    "MODEL.SWINV2",
    "MODEL.SWIN_MLP",
    "MODEL.SWIN_MOE",
    "MODEL.SIMMIM",
    "DATA.MASK_PATCH_SIZE",
    "DATA.MASK_RATIO",
    "TRAIN.MOE",
)
