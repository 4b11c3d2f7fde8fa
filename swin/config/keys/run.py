"""Keys of the run itself, at the top of the tree, and those of TEST."""

from swin.config.keys.key import Key

_IN_ORDER = "evaluation is always in order and unpadded; remove it"

RUN = {
    "BASE": Key([""], "[str]|str").means("""
        Files that this one starts from, relative to it, in order; later ones and the file itself win. Only in
        files."""),
    "TEST.CROP": Key(True).means("""
        Resize the short side to 256/224 of IMG_SIZE and crop the centre; False resizes straight to IMG_SIZE, as is
        always done for sizes of 32 or less."""),
    "TEST.CROP_PCT": Key(None, "null|float", "(0, 1]", is_new=True).means("""
        With TEST.CROP, another ratio than 224/256: what remains of the short side where the centre is cropped, as timm
        has it, for sizes of 32 or less too."""),
    "TEST.SEQUENTIAL": Key(False, deprecated=_IN_ORDER),
    "TEST.SHUFFLE": Key(False, deprecated=_IN_ORDER),
    "AMP_ENABLE": Key(True, flag="disable-amp").means("Mixed precision; False computes everything in float32."),
    "AMP_DTYPE": Key("auto", one_of=("auto", "bf16", "fp16"), is_new=True).means("""
        auto (bf16 where that is fast, else fp16 on CUDA), bf16, or fp16 (CUDA only, with loss scaling)."""),
    "TF32": Key(False, is_new=True).means("""
        On CUDA, float32 matrix products in TensorFloat-32: about 3 decimal digits instead of 7, several times as fast.
        It matters where AMP is off; no effect on other devices."""),
    "DEVICE": Key(
        "auto",
        matches=r"auto|cpu|mps|cuda(:[0-9]{1,2})?",
        expected="auto, cpu, mps, cuda or cuda:N, as in cuda:0",
        is_new=True,
        flag="device",
    ).means("auto is CUDA, else MPS, else the CPU."),
    "OUTPUT": Key("", is_path=True, flag="output").means("""Folder of all runs; "" is ./output."""),
    "TAG": Key("default", is_folder=True, flag="tag").means("""
        Last part of a run's folder, `<OUTPUT>/<MODEL.NAME>/<TAG>/`; a new TAG is a new run."""),
    "SAVE_FREQ": Key(1, between="[1, 1e9]").means("""
        Epochs between two checkpoints; the last epoch is always saved."""),
    "SAVE_FREQ_STEPS": Key(0, between="[0, 1e9]", is_new=True).means("""
        Updates between two further checkpoints inside an epoch; 0 for none. What a crash can lose on long epochs.
        Training pauses only while the state is copied: writing it happens in the background."""),
    "SAVE_MINUTES": Key(0.0, between="[0, inf)", is_new=True).means("""
        Minutes between two further checkpoints, beside those of SAVE_FREQ_STEPS; 0 for none. 0.5 is 30 seconds."""),
    "SAVE_KEEP": Key(3, between="[1, 1e9]", is_new=True).means("Newest checkpoints to keep, besides the best."),
    "EVAL_FREQ": Key(1, between="[1, 1e9]", is_new=True).means("""
        Epochs between two evaluations; the last epoch is always evaluated."""),
    "PRINT_FREQ": Key(10, between="[1, 1e9]").means("""
        Updates between two log lines. The only place where training waits for the device to report."""),
    "REPORT": Key(True, is_new=True).means("""
        Write report.html, a page with what a run or an evaluation has learned, at its end; it needs the extra
        `report`."""),
    "LOGGERS": Key(["tensorboard"], one_of=("tensorboard", "wandb", "mlflow"), is_new=True).means("""
        What shows the run while it goes on, beside metrics.jsonl, which is always written; [] for nothing.
        wandb and mlflow are installed by `pip install "swin-trainer[trackers]"`."""),
    "SEED": Key(0, between="[0, 4294967296)").means("""
        Seed of weights, order, augmentation and DATA.VAL_SPLIT; NumPy takes no larger one."""),
    "EVAL_MODE": Key(False, flag="eval").means("Only evaluate instead of training."),
    "THROUGHPUT_MODE": Key(False, flag="throughput").means("Only measure inference throughput instead of training."),
    "DIST_TIMEOUT": Key(1800, between="[1, 1e9]", is_new=True).means("""
        Seconds after which a collective that another process never joins is an error."""),
    "ENABLE_AMP": Key(False, deprecated="set AMP_ENABLE instead"),
    "AMP_OPT_LEVEL": Key("", deprecated="Apex is not used; set AMP_ENABLE (True or False) and AMP_DTYPE instead"),
    "LOCAL_RANK": Key(0, deprecated="torchrun gives it to each process; remove it"),
    "FUSED_WINDOW_PROCESS": Key(False, deprecated="no extension needs compiling; set MODEL.ATTENTION instead"),
    "FUSED_LAYERNORM": Key(False, deprecated="PyTorch's LayerNorm is used; remove it"),
}
