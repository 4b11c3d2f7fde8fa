"""AUG: augmentation of training images, one by one and mixed."""

from swin.config.keys.key import Key

AUG = {
    "COLOR_JITTER": Key(0.4, between="[0, 1000]").means("""
        Largest change of brightness, contrast and saturation; 0 for none. Not used together with AUTO_AUGMENT."""),
    "AUTO_AUGMENT": Key(
        "rand-m9-mstd0.5-inc1",
        # Numbers of at most three digits: timm applies as many operations, or mixes as many chains of them.
        matches=r"(none|ta_wide|((rand|augmix|original|originalr|v0|v0r|3a)(-[A-Za-z]+([0-9]{1,3}(\.[0-9]*)?)?)*))?",
        expected="rand-..., augmix-..., original, originalr, v0, v0r, 3a, ta_wide or none, as in rand-m9-mstd0.5-inc1, "
        "with numbers below 1,000",
    ).means("Policy in timm's notation; ta_wide (torchvision's TrivialAugment); or none."),
    "REPROB": Key(0.25, between="[0, 1]").means("Random erasing: probability."),
    "REMODE": Key("pixel", one_of=("pixel", "rand", "const")).means("""
        Random erasing: fill with pixel (noise), rand (one random colour) or const (zeros)."""),
    "RECOUNT": Key(1, between="[1, 1000]").means("Random erasing: number of rectangles."),
    "MIXUP": Key(0.8, between="[0, 1000]").means("""
        Mixup: parameter of the Beta distribution of the fractions; 0 turns mixup off."""),
    "CUTMIX": Key(1.0, between="[0, 1000]").means("""
        Cutmix: parameter of the Beta distribution of the fractions; 0 turns cutmix off."""),
    "CUTMIX_MINMAX": Key(None, "null|[float]", "[0, 1]", length=2).means("""
        [low, high] fraction of the image's sides that cutmix pastes, 0 <= low < high <= 1, instead of one drawn by
        CUTMIX's rule; turns cutmix on. null for none."""),
    "MIXUP_PROB": Key(1.0, between="[0, 1]").means("Probability that a batch is mixed at all."),
    "MIXUP_SWITCH_PROB": Key(0.5, between="[0, 1]").means("""
        Where mixup and cutmix are both on, the probability that it is cutmix."""),
    "MIXUP_MODE": Key("batch", one_of=("batch", "pair", "elem")).means("""
        Draw the fraction once for each batch, pair (an image and its partner) or elem (image)."""),
    "HFLIP": Key(0.5, between="[0, 1]", is_new=True).means("""
        Probability of a horizontal flip. 0 where left and right matter, as in digits and text."""),
    "VFLIP": Key(0.0, between="[0, 1]", is_new=True).means("Probability of a vertical flip."),
    "SCALE": Key([0.08, 1.0], between="(0, 1]", length=2, is_new=True).means("""
        Random resized crop: [low, high] of the area as a fraction of the image."""),
    "RATIO": Key([0.75, 1.3333333333333333], between="(0, inf)", length=2, is_new=True).means("""
        Random resized crop: [low, high] of width / height."""),
    "CROP_PADDING": Key(4, between="[0, 1000]", is_new=True).means("""
        With an IMG_SIZE of 32 or less there is no random resized crop: images are resized to IMG_SIZE and cropped from
        a copy padded by this many pixels on each side. SCALE and RATIO then have no effect."""),
}
