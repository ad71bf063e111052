"""Texts as phrases: the longest match, plurals, words that dress a name up, words that nobody knows."""

import pytest

from decomcam_bench.datasets.benchmarks.coco import OFFICIAL
from decomcam_bench.datasets.benchmarks.voc import CLASSES
from decomcam_bench.datasets.prompts import imagenet_names, resolve_templates
from decomcam_bench.models.photoclip import shipped
from decomcam_bench.models.phrases import CONTEXT_LENGTH, PhraseTokenizer, read_vocabulary

COCO_UNKNOWN = {
    "fire hydrant", "giraffe", "suitcase", "frisbee", "snowboard", "skateboard", "surfboard", "fork", "carrot", "donut",
    "cake", "scissors", "toothbrush",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return PhraseTokenizer(read_vocabulary(shipped("photoclip_words.csv")))


def phrases(tokenizer, text):
    vocabulary = [" ".join(phrase) for phrase in tokenizer.vocabulary]
    return [vocabulary[number - 1] for number in tokenizer.read(text).phrases]


def test_the_longest_phrase_wins():
    tokenizer = PhraseTokenizer({("dog",): [0], ("hot", "dog"): [1], ("hot", "dog", "stand"): [2]})
    assert tokenizer.read("a hot dog stand").phrases == (3,)
    assert tokenizer.read("a hot dog and a dog").phrases == (2, 1)
    assert tokenizer.read("a dog, hot").unknown == ("hot",)


def test_every_name_of_imagenet_is_one_phrase_of_its_own_classes(tokenizer):
    names = imagenet_names()
    for number, name in enumerate(names):
        reading = tokenizer.read(name)
        assert len(reading.phrases) == 1, name
        assert not reading.unknown, name
        classes = list(tokenizer.vocabulary.values())[reading.phrases[0] - 1]
        assert classes == tuple(index for index, other in enumerate(names) if other == name), (number, name)


def test_templates_change_nothing_but_what_a_toy_dog_sled_is(tokenizer):
    changed = set()
    for name in imagenet_names():
        bare = tokenizer.read(name)
        for choice in ("photo", "decomcam", "clip80", "clip7"):
            changed |= {(name, t) for t in resolve_templates(choice) if tokenizer.read(t.replace("{}", name)) != bare}
    assert changed == {("dog sled", "a toy {}."), ("dog sled", "the toy {}.")}


def test_the_template_for_birds_adds_the_word_bird(tokenizer):
    assert phrases(tokenizer, "a photo of a albatross, a type of bird.") == ["albatross", "bird"]


def test_names_of_voc_are_known(tokenizer):
    for name in (*CLASSES, "dining table", "potted plant", "tv monitor"):
        reading = tokenizer.read(f"a photo of a {name}.")
        assert len(reading.phrases) == 1, name
        assert not reading.unknown, name


def test_names_of_coco_are_known_as_far_as_imagenet_has_classes(tokenizer):
    assert {name for _, name in OFFICIAL if not tokenizer.read(name).phrases} == COCO_UNKNOWN
    assert {name for _, name in OFFICIAL if tokenizer.read(name).unknown} == COCO_UNKNOWN | {"baseball bat"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two DOGS on a sofa", ["dog", "sofa"]),
        ("geese and mice", ["geese", "mice"]),
        ("buses, puppies", ["bus", "puppy"]),
        ("the German shepherd's pillow", ["german shepherd", "pillow"]),
        ("kite", ["kite"]),
        ("taxi", ["taxi"]),
        ("", []),
    ],
)
def test_texts_of_people(tokenizer, text, expected):
    assert phrases(tokenizer, text) == expected


def test_words_above_classes_stand_for_all_of_them(tokenizer):
    classes = {" ".join(phrase): set(found) for phrase, found in tokenizer.vocabulary.items()}
    assert classes["dog"] == set(range(151, 269))
    assert classes["terrier"] < classes["dog"]
    assert classes["bird"] >= {7, 8, 22}
    assert classes["flower"]
    assert classes["musical instrument"] > classes["stringed instrument"]


def test_tokens_are_padded_and_cut():
    tokenizer = PhraseTokenizer({("dog",): [0]})
    tokens = tokenizer(["dog dog", "unknown", "dog " * 40])
    assert tokens.shape == (3, CONTEXT_LENGTH)
    assert tokens[0].tolist() == [1, 1, *[0] * (CONTEXT_LENGTH - 2)]
    assert not tokens[1].any()
    assert tokens[2].all()
