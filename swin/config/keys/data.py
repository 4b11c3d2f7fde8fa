"""DATA: the data set, and how it is read."""

from swin.config.keys.key import Key

DATA = {
    "BATCH_SIZE": Key(128, between="[1, 1e6]", flag="batch-size").means("""
        Images of one device in one forward pass. The effective batch is this x devices x TRAIN.ACCUMULATION_STEPS: 128
        on 8 devices is 1024, and learning rates scale with it (TRAIN.LR_REFERENCE_BATCH)."""),
    "DATA_PATH": Key("", is_path=True, flag="data-path").means("""
        The data set, a folder in any of these layouts: train/ and val/ with one folder a class (see SPLITS for other
        names); one folder of class folders (see VAL_SPLIT); a table, or train.csv and val.csv (.tsv, .jsonl, .parquet),
        with a path and a label in each row; what Hugging Face's datasets saves; a flat folder (see CLASS_PATTERN); the
        shards of tools.pack_dataset; CUB-200-2011 as distributed; train.zip and val.zip (see ZIP_MODE)."""),
    "DATASET": Key("imagenet", one_of=("imagenet", "folder", "digits", "imagenet22K")).means("""
        imagenet or folder (the same: DATA_PATH in any layout), digits (scikit-learn's, no download), or imagenet22K
        (DATA_PATH with the official ILSVRC2011fall_whole_map_train.txt and _val.txt: JSON of [path, label])."""),
    "IMG_SIZE": Key(224, "int|[int]", "[1, 1e5]", length=2, items=" [height, width]").means("""
        Size of the images that the model sees, in pixels: one number, or [height, width]. Any size works; a warning
        says which sizes fit the windows without padding."""),
    "INTERPOLATION": Key("bicubic", one_of=("bicubic", "bilinear", "nearest", "lanczos", "random")).means("""
        How images are resized; random is bilinear or bicubic by chance in training, and bilinear in evaluation."""),
    "ZIP_MODE": Key(False, flag="zip").means("""
        Read train.zip and val.zip, each with a `*_map.txt` of `path<TAB>label` lines, instead of folders."""),
    "CACHE_MODE": Key("part", one_of=("no", "part", "full"), flag="cache-mode").means("""
        With ZIP_MODE, what each process keeps in memory: no, full (all files, which avoids reads) or part (each of N
        processes keeps 1/N of the files; the order is shuffled over all, so only 1/N of the reads find theirs)."""),
    "PIN_MEMORY": Key(True).means("Page-locked host memory for faster copies to the device; used with CUDA only."),
    "NUM_WORKERS": Key(8, between="[0, 65536]").means("""
        Worker processes that decode images, for each device, and no more than there are CPUs; 0 decodes in the training
        process. The batches are the same."""),
    "CLASS_PATTERN": Key("", is_new=True).means("""
        Where the names of files say the classes, as cat_001.jpg, a regular expression with one group, the class; it is
        searched in the path of each image relative to the folder, or to its part of it, as train/. Empty: folders or
        tables say the classes."""),
    "MULTI_LABEL": Key(False, is_new=True).means("""
        Whether an image has any number of labels. They come from a table: in one cell, joined by vertical bars or
        semicolons, or as a JSON list, or in a list column of Parquet; an empty cell is an image without labels. Needs
        TRAIN.LOSS bce or asl."""),
    "SPLITS": Key({}, "{str}", one_of=("train", "val", "test"), is_new=True).means("""
        Which parts are for what, as {train: tr, val: dev, test: hidden}: names of folders, tables, zips or shards, or
        values of a table's split column. Those left out are found by their usual names in any case: train or training;
        val, valid, validation or dev; test or testing. The test part is evaluated once, at the end of a training."""),
    "VAL_SPLIT": Key(0.0, between="[0, 1)", is_new=True).means("""
        Fraction of the training images that is held out for validation, where no part is there for that: drawn by
        SEED, the same fraction of every class, and saved with the run. 0 expects a part to validate on."""),
    "GROUP_BY": Key("", is_new=True).means("""
        Images of one group, as of a patient or video, are never divided between training and validation: the name of a
        table's column, or a regular expression with one group that is searched in each image's path, as
        (patient[0-9]+)/. It counts for VAL_SPLIT and FOLDS; of parts that are given, groups in two are an error."""),
    "FOLDS": Key(0, between="[0, 1000]", is_new=True).means("""
        k-fold cross-validation: the training images are divided into so many parts, the same share of every class in
        each, by SEED. A run trains on all but one and validates on that; see FOLD. 0 for none."""),
    "FOLD": Key(None, "null|int", "[0, 1000]", is_new=True).means("""
        With FOLDS, the part to validate on, from 0. null for all, one run after the other."""),
    "MEAN": Key([0.485, 0.456, 0.406], between="(-inf, inf)", is_new=True).means("""
        Mean of each of the MODEL.SWIN.IN_CHANS channels, on a scale from 0 to 1. ImageNet's."""),
    "STD": Key([0.229, 0.224, 0.225], between="(0, inf)", is_new=True).means("""
        Standard deviation of each of the MODEL.SWIN.IN_CHANS channels, on a scale from 0 to 1. ImageNet's."""),
    "EXIF": Key(False, is_new=True).means("""
        Turn images as their EXIF orientation says. The official recipe does not, and its weights are used to that."""),
    "ON_ERROR": Key("raise", one_of=("raise", "skip"), is_new=True).means("""
        What to do about training images that cannot be read: raise ends the run; skip takes the next image of the data
        set instead, says so, and ends the run only after MAX_ERRORS different files. Validation always raises."""),
    "MAX_ERRORS": Key(100, between="[1, 1e9]", is_new=True).means("""
        With ON_ERROR skip, how many different files may fail before the run ends."""),
    "SAMPLER": Key("shuffle", one_of=("shuffle", "balanced"), is_new=True).means("""
        shuffle (each image once an epoch), or balanced (as many draws, the same number from every class: images of
        small classes come several times, not all of large ones come)."""),
    "REPEATED_AUG": Key(1, between="[1, 1000]", is_new=True).means("""
        Repeated augmentation: each image drawn comes this many times in a row, augmented differently, and an epoch
        shows that many times fewer of them. 1 for none; DeiT has 3, torchvision's recipe 4."""),
    "IMG_SIZE_SCHEDULE": Key([], "[phase]", is_new=True).means("""
        Smaller training images in parts of the run, which learns faster there: pairs [share of the run, size] in order,
        as [[0.5, 112], [0.25, 160]]: half of the run at 112 pixels, then a quarter at 160, then the rest at IMG_SIZE; a
        size may be [height, width]. It changes at starts of epochs. As images shrink, batches grow by the ratio of
        pixels, rounded down to a quarter, and to an epoch at most. Learning rates follow them by TRAIN.LR_SCALING
        unless LR_REFERENCE_BATCH is 0. Evaluation is at IMG_SIZE throughout."""),
    "MASK_PATCH_SIZE": Key(32, between="[1, 1e5]").means("""
        TRAIN.LOSS simmim: side in pixels of the cells that are masked as a whole. They are whole patches."""),
    "MASK_RATIO": Key(0.6, between="(0, 1]").means("""
        TRAIN.LOSS simmim: fraction of an image's cells that are masked, rounded up to a whole number of them."""),
}
