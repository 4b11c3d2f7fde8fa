"""TRAIN: the schedule, the optimizer, the loss, and what a run does about failures."""

from swin.config.keys.key import Key

TRAIN = {
    "START_EPOCH": Key(0, between="[0, 1e9]").means("""
        Epoch that a run without a checkpoint counts from; a resumed run takes its own from the checkpoint."""),
    "EPOCHS": Key(300, between="[1, 1e9]").means("""
        Passes over the training set. The schedule spans them: a change moves every learning rate but the first."""),
    "MINUTES": Key(0.0, between="[0, 1e6]", is_new=True).means("""
        The time that the run takes, evaluations and checkpoints included, instead of EPOCHS; 0 for none. How many
        updates fit is measured once, before the first. What is given in epochs (WARMUP_EPOCHS, MULTISTEPS,
        DECAY_EPOCHS) keeps its share of EPOCHS. Not counted: start-up, and the test part and the report at the
        end."""),
    "WARMUP_EPOCHS": Key(
        20,
        "int|float",
        "[0, 1e9]",
        expected="a whole number of epochs, or a share of the run below 1, as 0.1",
    ).means("""
        Linear warm-up from WARMUP_LR to the peak: a whole number of epochs, fewer than EPOCHS, or a share of the run:
        0.1 is a tenth of its updates, however many epochs there are."""),
    "WEIGHT_DECAY": Key(0.05, between="[0, inf)").means("""
        Decoupled weight decay. Biases, norms, position-bias tables and absolute position embeddings have none."""),
    "BASE_LR": Key(5e-4, between="(0, inf)").means("""
        Peak learning rate, reached after the warm-up, for an effective batch of LR_REFERENCE_BATCH images."""),
    "WARMUP_LR": Key(5e-7, between="[0, inf)").means("""
        First learning rate, from which the warm-up rises, for an effective batch of LR_REFERENCE_BATCH images."""),
    "MIN_LR": Key(5e-6, between="[0, inf)").means("""
        Last learning rate of the cosine, linear and wsd schedules, for an effective batch of LR_REFERENCE_BATCH
        images."""),
    "LR_REFERENCE_BATCH": Key(512, between="[0, 1e9]", is_new=True).means("""
        Effective batch that the three rates are meant for: for another they are scaled as LR_SCALING says. 0 uses them
        as written."""),
    "LR_SCALING": Key("linear", one_of=("linear", "sqrt"), is_new=True).means("""
        How the three rates follow the effective batch: they are multiplied by effective batch / LR_REFERENCE_BATCH
        (linear, as the official code does), or by its square root (sqrt), which suits AdamW (arXiv 2205.10287) and
        leaves a usable rate at a batch of 8."""),
    "CLIP_GRAD": Key(5.0, between="[0, inf)").means("""
        Largest norm of the whole gradient; longer ones are scaled down to it. 0 turns clipping off."""),
    "AUTO_RESUME": Key(True).means("""
        Continue from the newest checkpoint in the run's folder. MODEL.RESUME wins over it; not used in evaluation."""),
    "ACCUMULATION_STEPS": Key(1, between="[1, 1e6]", flag="accumulation-steps").means("""
        Micro-batches summed into one update: the effective batch grows as many times, the memory does not."""),
    "USE_CHECKPOINT": Key(False, flag="use-checkpoint").means("""
        Recompute activations in the backward pass: much less memory, about a third more time, the same gradients."""),
    "COMPILE": Key("off", one_of=("off", "default", "max-autotune"), is_new=True).means("""
        Compile the model with torch.compile: off, default, or max-autotune, which searches longer. Needs a C++ compiler
        on a CPU and Triton on a GPU; the first step takes a minute or more. --throughput compiles as well."""),
    "LOSS": Key("ce", one_of=("ce", "bce", "asl", "simmim"), is_new=True).means("""
        ce (softmax cross-entropy), bce (one sigmoid a class, averaged) or asl (asymmetric loss, arXiv 2009.14119: one
        sigmoid a class, summed; the many classes that an image does not have count less, see ASL). DATA.MULTI_LABEL
        takes bce or asl. simmim pre-trains without labels: pixels of masked parts are predicted (arXiv 2111.09886), see
        DATA.MASK_RATIO; it turns off AUG's policy, jitter, erasing and mixing and sets AUG.SCALE to [0.67, 1.0], unless
        these are given."""),
    "ASL.GAMMA_NEG": Key(4.0, between="[0, 100]", is_new=True).means("""
        asl: power of the probability that weighs a class that the image does not have. 0 weighs all alike; the higher,
        the less those count that the model is right about."""),
    "ASL.GAMMA_POS": Key(1.0, between="[0, 100]", is_new=True).means("""
        asl: power of 1 - the probability that weighs a label of the image; 0 weighs all alike. At most GAMMA_NEG, or
        rare labels are lost."""),
    "ASL.CLIP": Key(0.05, between="[0, 1)", is_new=True).means("""
        asl: a class that the image does not have costs nothing below this probability, and is judged above it by how
        much it exceeds it. 0 for none."""),
    "CLASS_WEIGHTS": Key("none", one_of=("none", "balanced"), is_new=True).means("""
        none, or balanced: a sample's loss is weighted by how much rarer its class is than the average one. Not with
        DATA.MULTI_LABEL."""),
    "MONITOR": Key(
        "acc1", one_of=("acc1", "balanced_accuracy", "macro_f1", "loss", "mAP", "last"), is_new=True
    ).means("""
        What evaluations are compared by, on the validation images: best.pth, predictions.npz and the final message are
        those of the best. The loss is better when it is lower. mAP is for images with several labels, where acc1
        stands for it too. last takes the last weights, without a choice."""),
    "PATIENCE": Key(0, between="[0, 1e9]", is_new=True).means("""
        Evaluations (see EVAL_FREQ) in a row without a better MONITOR after which the run ends early; 0 for never. The
        learning rates stay those of all EPOCHS."""),
    "MAX_NONFINITE": Key(10, between="[1, 1e9]", is_new=True).means("""
        Consecutive updates with an infinite or NaN loss or gradient (each is skipped) after which training stops."""),
    "ROLLBACK": Key(0, between="[0, 1e9]", is_new=True).means("""
        How often, at most, a run that MAX_NONFINITE would stop goes on from its last good checkpoint instead, with half
        the learning rate; 0 for never."""),
    "LAYER_DECAY": Key(1.0, between="(0, 1]").means("""
        Fine-tuning: factor on the learning rate for each block further from the head; 1 for none. With 0.8 and Swin-T's
        12 blocks the head learns at the full rate, the last block at 0.8 and the patch embedding at 0.055 of it."""),
    "FREEZE": Key([], "[int|str]", is_new=True).means("""
        What is not trained: stages, counted from 0, and patterns for names of parameters or of what holds them, as
        `[patch_embed, 0, "*.attn.*"]`. Modules that are frozen whole have no dropout and no stochastic
        depth either."""),
    "LR_SCHEDULER.NAME": Key("cosine", one_of=("cosine", "linear", "constant", "step", "multistep", "wsd")).means("""
        Learning rate after the warm-up; it changes at each update. wsd stays at the peak and falls at the end, so that
        a run that is made longer goes on from a checkpoint before the fall."""),
    "LR_SCHEDULER.DECAY_EPOCHS": Key(30, between="[1, 1e9]").means("step: epochs between two decays."),
    "LR_SCHEDULER.DECAY_RATE": Key(0.1, between="(0, 1]").means("step: factor of each decay."),
    "LR_SCHEDULER.WARMUP_PREFIX": Key(True).means("""
        cosine: the warm-up is taken off the front and the cosine starts after it; False runs the cosine from update 0
        and lets the warm-up hide its beginning."""),
    "LR_SCHEDULER.GAMMA": Key(0.1, between="(0, 1]").means("multistep: factor that is applied at each of MULTISTEPS."),
    "LR_SCHEDULER.MULTISTEPS": Key([], "[int]", "[1, 1e9]").means("""
        multistep: epochs, counted from the start and increasing, at which GAMMA is applied."""),
    "LR_SCHEDULER.DECAY_SHARE": Key(0.2, between="(0, 1]", is_new=True).means("""
        wsd: share of the run, at its end, over which the rate falls to MIN_LR."""),
    "OPTIMIZER.NAME": Key(
        "adamw",
        one_of=("adamw", "sgd", "muon", "schedulefree"),
        matches=r"timm:\w+",
        expected="timm:NAME",
        flag="optim",
    ).means("""
        adamw; sgd (with Nesterov momentum); muon (orthogonalised momentum for the matrices of the blocks, adamw for
        the rest), which learns far more from scratch on small data sets, at rates of about ten times adamw's;
        schedulefree (schedule-free adamw, arXiv 2405.15682, installed by `pip install "swin-trainer[optim]"`), whose
        average takes the place of a schedule; or one of timm's, as timm:lion, with timm's settings and ARGS."""),
    "OPTIMIZER.ARGS": Key({}, "{any}", is_new=True).means("""
        More arguments of schedulefree and timm's optimizers, as `{betas: [0.95, 0.98]}`."""),
    "OPTIMIZER.EPS": Key(1e-8, between="(0, inf)").means("""
        adamw, muon and schedulefree: added to the denominator of adamw."""),
    "OPTIMIZER.BETAS": Key((0.9, 0.999), between="[0, 1)", length=2).means("""
        adamw, muon where it is that, and schedulefree: decay of the two moments. schedulefree has no first moment:
        there it is the share of the average in the weights at which gradients are taken."""),
    "OPTIMIZER.MUON_MOMENTUM": Key(0.95, between="[0, 1)", is_new=True).means("muon: momentum of the matrices."),
    "OPTIMIZER.MOMENTUM": Key(0.9, between="[0, 1)").means("sgd: momentum."),
    "EMA.ENABLE": Key(False, is_new=True).means("""
        Keep an exponential moving average of the weights, which is evaluated and saved beside them."""),
    "EMA.DECAY": Key(0.9999, between="[0, 1)", is_new=True).means("""
        Decay of the average: 0.9999 averages over about 10,000 updates, so short runs want less."""),
    "DISTILL.TEACHER": Key("", is_path=True, is_new=True).means("""
        Distillation: a trained model that the model learns from, on the same classes: what --pretrained takes, or
        timm:NAME[:FILE] or torchvision:NAME[:FILE], a model of that library with the weights of a file, or with its
        own, which are downloaded. It sees the student's images at its own size, mean and deviation, in the student's
        number format (bf16 where the hardware has it). "" for none."""),
    "DISTILL.CONFIG": Key("", is_path=True, is_new=True).means("""
        YAML file for a teacher whose weight file does not say how it is built and what images it takes (DATA.IMG_SIZE,
        MEAN, STD); of timm's and torchvision's models the latter alone."""),
    "DISTILL.KIND": Key("soft", one_of=("soft", "hard"), is_new=True).means("""
        What is learned of the teacher's logits: soft, all of them (their softmax at TEMPERATURE, compared by the
        Kullback-Leibler divergence times TEMPERATURE squared); or hard, its top class as a label."""),
    "DISTILL.ALPHA": Key(0.5, between="[0, 1]", is_new=True).means("""
        Weight of the teacher's logits; the labels weigh 1 - ALPHA. 1 learns from the teacher alone."""),
    "DISTILL.TEMPERATURE": Key(1.0, between="(0, 1000]", is_new=True).means("""
        soft: what logits are divided by. The higher, the more the unlikely classes count."""),
    "DISTILL.FEATURES": Key(0.0, between="[0, 1000]", is_new=True).means("""
        Weight of a third loss: how far the last feature map is, after a linear layer that is learned beside the model,
        from the teacher's, whitened and resized to the same grid. 0 for none."""),
    "DISTILL.CACHE": Key(False, is_new=True).means("""
        The teacher sees each training image once, as in an evaluation, and its logits are kept in OUTPUT/teachers for
        this run and others: much faster where the teacher is large, but what it says is of the whole image, not of the
        crop that the student sees. Not with mixing."""),
}
