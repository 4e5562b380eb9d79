"""English names of the encoder's 1,000 classes, and a broader word for most of them.

The names come from the photographs' file names; this module polishes them (``ashcan`` is a rubbish bin that nobody would
say) and holds this project's own table of broader words, by index of the head, which is the order of the sorted WordNet
ids. ``head_noun`` is what a caption is scored on.
"""

from __future__ import annotations

from pathlib import Path

POLISHED = {
    "cock": "rooster", "American chameleon": "anole lizard", "tusker": "elephant with tusks", "drake": "duck",
    "loggerhead": "loggerhead turtle", "terrapin": "terrapin turtle", "diamondback": "rattlesnake",
    "basset": "basset hound", "bluetick": "bluetick hound", "redbone": "redbone hound", "Airedale": "Airedale terrier",
    "cairn": "cairn terrier", "Dandie Dinmont": "Dandie Dinmont terrier", "Boston bull": "Boston terrier",
    "Lhasa": "Lhasa dog", "clumber": "clumber spaniel", "English springer": "English springer spaniel",
    "boxer": "boxer dog", "Newfoundland": "Newfoundland dog", "Saint Bernard": "Saint Bernard dog", "chow": "chow dog",
    "Pembroke": "Pembroke corgi", "Cardigan": "Cardigan corgi", "Mexican hairless": "hairless dog", "kelpie": "kelpie dog",
    "Leonberg": "Leonberg dog", "Great Pyrenees": "Pyrenees dog", "tabby": "tabby cat", "ice bear": "polar bear",
    "fly": "fly", "admiral": "admiral butterfly", "ringlet": "ringlet butterfly", "monarch": "monarch butterfly",
    "lycaenid": "blue butterfly", "walking stick": "stick insect", "wood rabbit": "wild rabbit",
    "Angora": "Angora rabbit", "sorrel": "brown horse", "hog": "pig", "bighorn": "bighorn sheep",
    "Madagascar cat": "lemur", "lesser panda": "red panda", "giant panda": "panda", "barracouta": "silver fish",
    "coho": "salmon", "puffer": "pufferfish", "gar": "gar fish", "anemone fish": "clownfish", "airliner": "airplane",
    "airship": "airship", "amphibian": "amphibious vehicle", "ashcan": "trash can", "assault rifle": "rifle",
    "balloon": "hot air balloon", "ballpoint": "ballpoint pen", "bannister": "staircase", "barrow": "wheelbarrow",
    "beach wagon": "station wagon", "beacon": "lighthouse", "bearskin": "bearskin hat", "bell cote": "bell tower",
    "bicycle-built-for-two": "tandem bicycle", "binder": "ring binder", "bookshop": "bookstore", "bow": "bow",
    "brass": "memorial plaque", "brassiere": "bra", "cab": "taxi", "carpenter's kit": "tool kit",
    "cash machine": "cash machine", "cellular telephone": "mobile phone", "chiffonier": "chest of drawers",
    "chime": "wind chime", "confectionery": "candy store", "cornet": "trumpet", "crane": "crane",
    "dial telephone": "telephone", "electric fan": "fan", "fire screen": "fireplace", "fireboat": "fire boat",
    "freight car": "freight train", "four-poster": "bed", "gasmask": "gas mask", "hair slide": "hair clip",
    "hand blower": "hair dryer", "hard disc": "hard drive", "horse cart": "horse and cart", "iPod": "music player",
    "jean": "jeans", "jack-o'-lantern": "pumpkin lantern", "jinrikisha": "rickshaw", "liner": "cruise ship",
    "Loafer": "loafer", "loudspeaker": "speaker", "loupe": "magnifying glass", "lumbermill": "sawmill",
    "maillot": "swimsuit", "matchstick": "match", "Model T": "vintage car", "mountain tent": "tent",
    "mouse": "computer mouse", "nipple": "baby bottle", "moped": "moped", "oxcart": "ox cart", "pajama": "pajamas",
    "passenger car": "train car", "pickelhaube": "spiked helmet", "pickup": "pickup truck", "pirate": "pirate ship",
    "plane": "wood plane", "pop bottle": "soda bottle", "pot": "flower pot", "racer": "racing car",
    "recreational vehicle": "camper van", "reflex camera": "camera", "rubber eraser": "eraser", "rule": "ruler",
    "sax": "saxophone", "scale": "weighing scale", "screen": "screen", "slot": "slot machine",
    "solar dish": "solar dish", "studio couch": "sofa", "steel arch bridge": "bridge", "stole": "fur scarf",
    "streetcar": "tram", "sunglass": "sunglasses", "swab": "mop", "tobacco shop": "tobacco store",
    "theater curtain": "curtain", "thatch": "thatched roof", "toyshop": "toy store", "upright": "piano",
    "vacuum": "vacuum cleaner", "vault": "vaulted ceiling", "warplane": "fighter plane", "washbasin": "sink",
    "washer": "washing machine", "Windsor tie": "necktie", "wool": "ball of wool", "wreck": "shipwreck",
    "yawl": "sailboat", "schooner": "sailing ship", "web site": "website", "head cabbage": "cabbage",
    "Granny Smith": "green apple", "ice lolly": "popsicle", "French loaf": "loaf of bread", "hotdog": "hot dog",
    "hot pot": "hot pot", "consomme": "bowl of soup", "espresso": "cup of coffee", "red wine": "glass of red wine",
    "hay": "hay bale", "carbonara": "plate of pasta", "guacamole": "bowl of guacamole", "eggnog": "glass of eggnog",
    "mashed potato": "plate of mashed potatoes", "dough": "ball of dough", "chocolate sauce": "cup of chocolate",
    "alp": "mountain", "lakeside": "lake", "seashore": "beach", "promontory": "coast", "ballplayer": "baseball player",
    "rapeseed": "field of flowers", "yellow lady's slipper": "yellow orchid", "corn": "ear of corn", "hip": "rose hip",
    "ear": "ear of corn", "buckeye": "chestnut", "agaric": "red mushroom", "bolete": "brown mushroom",
    "toilet tissue": "roll of toilet paper", "meat loaf": "meat loaf", "velvet": "piece of velvet",
    "broccoli": "head of broccoli", "spotlight": "spotlight", "sunscreen": "bottle of sunscreen",
    "lotion": "bottle of lotion", "perfume": "bottle of perfume", "hair spray": "can of hair spray",
    "face powder": "box of face powder", "typewriter keyboard": "typewriter", "stage": "stage", "wing": "wing",
}  # fmt: skip
"""File name (underscores as spaces) to the name used in captions, where they differ."""

NO_ARTICLE = frozenset(("binoculars", "sunglasses", "jeans", "pajamas", "swimming trunks", "parallel bars"))

BROADER = {
    "fish": "0-6 389-397", "bird": "7-24 80-96 98 127-146", "duck": "97", "salamander": "25-29", "frog": "30-32",
    "turtle": "33-37", "lizard": "38-48", "crocodile": "49-50", "dinosaur": "51", "snake": "52-68",
    "spider": "70 72-77", "insect": "308-320", "beetle": "300-307", "butterfly": "321-326", "animal":
    "69 71 78-79 102-117 124 126 147-150 272 276 298-299 327-329 333-334 336-338 341-344 348-364 387-388",
    "goose": "99", "swan": "100", "elephant": "101 385-386", "crab": "118-121 125", "lobster": "122-123",
    "dog": "151-268 273-275", "wolf": "269-271", "fox": "277-280", "cat": "281-293", "bear": "294-297",
    "rabbit": "330-332", "squirrel": "335", "horse": "339-340", "cow": "345-347", "ape": "365-369",
    "monkey": "370-382", "lemur": "383-384",
    "clothing": "399-400 411 443 445 457 459 474 501 529 568 578 601 608 610 614 617 638-639 652 655 658 689 697 735 775"
    " 806 824 834 841-842 869 887 906 496", "hat": "433 439 452 515 667 793 808", "helmet": "518 560 715",
    "shoe": "502 514 630 770 774", "instrument":
    "401-402 420 432 486 513 541 546 558 566 577 579 593-594 641-642 683-684 687 699 776 822 875 881 889",
    "boat": "472 484 554 576 625 780 814 871 914", "ship": "403 510 628 724 833 913",
    "car": "436 468 511 609 627 661 751 817 573", "truck": "555 569 675 717 864 867", "bus": "654 779 874",
    "train": "466 547 565 705 820 829", "bicycle": "444 671 880 870", "motorcycle": "665 670", "van": "656 734 757",
    "aircraft": "404-405 417 812 895", "vehicle": "407-408 428 450 537 575 586 595 603 612 660 690 802-803 847 856 866",
    "store": "415 424 454 467 509 582 788 860 865", "building":
    "410 425 437 442 449 483 497-500 538 580 624 634 649 663 668 682 698 727 743 762 832 873 900 915",
    "bridge": "821 839 888", "chair": "423 559 765 857", "bed": "431 516 520 564", "table": "526 532 736",
    "furniture": "453 493 495 548 648 703 831 894", "knife": "499 623", "tool": "462 473 477 512 587 596 677 726 730-731"
    " 740 783-784 792", "gun": "413 763-764", "weapon": "456 471 657 744", "ball": "429-430 522 574 722 768 805 852 890",
    "clock": "409 530-531 604 826 835 892", "computer": "527 590 620 681", "phone": "487 528 707",
    "machine": "480 508 534 545 571 651 664 713 742 760 766 800 827 859 882 886 891 897",
    "cup": "504 968", "bottle": "440 680 720 737 898 907", "jug": "725 899 901", "pot": "469 505 521 544 738 849",
    "pan": "567 909", "bowl": "659 809", "spoon": "618 910", "bag": "414 636 728 748", "box": "478 492 519 709",
    "basket": "588 790", "fence": "489 716 912", "lamp": "470 607 619 846", "camera": "732 759", "sign": "919",
    "cloth": "434 533 591 721 741 750 885", "fruit": "948-957 989", "vegetable": "936-946 987 998",
    "bread": "930-932", "dessert": "927-929", "food": "924-926 933-935 959-965", "drink": "966-967 969",
    "mushroom": "947 991-997", "mountain": "970 980", "place": "972-979", "flower": "984-986", "person": "981-983",
}  # fmt: skip
"""Broader word to indices of the head (``a-b`` is a range)."""


def names(files: list[Path]) -> list[str]:
    """Class names in the head's order, from ``<wnid>_<class>.jpg``."""
    plain = [path.stem.split("_", 1)[1].replace("_", " ") for path in files]
    return [POLISHED.get(name, name) for name in plain]


def broader() -> dict[int, str]:
    """Index of the head to its broader word; classes without one are missing."""
    table = {}
    for word, ranges in BROADER.items():
        for piece in ranges.split():
            first, _, last = piece.partition("-")
            table.update(dict.fromkeys(range(int(first), int(last or first) + 1), word))
    return table


def with_article(name: str) -> str:
    """``an airplane``, ``a cat``, ``sunglasses``."""
    if name in NO_ARTICLE:
        return name
    return f"{'an' if name[0].lower() in 'aeio' or name.startswith('umbr') else 'a'} {name}"


def head_noun(name: str) -> str:
    """What a caption must contain to have named the object: the last word, or the thing measured out (``cup of coffee``)."""
    if " with " in name:
        name = name.split(" with ")[0]
    return name.split()[-1].lower()
