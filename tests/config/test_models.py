"""Names of models: those of open_clip, of the hub, of folders, and aliases from elsewhere."""

import subprocess
import sys

import open_clip
import pytest

from decomcam_bench.config import models, registry
from decomcam_bench.config.settings import load_config
from decomcam_bench.core.errors import ConfigError, ModelError


def chosen(name, *more):
    return [setting.model for setting in load_config([f"model={name}", *more]).settings]


def test_architectures_are_those_of_open_clip():
    assert set(models.architectures()) == set(open_clip.list_models())


def test_names_are_listed_without_torch():
    code = "import sys; from decomcam_bench.config import models; assert len(models.names()) > 150"
    code += "; assert not {'torch', 'open_clip'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("alias", models.aliases())
def test_every_alias_names_weights_that_open_clip_has(alias):
    options = models.options_of(alias)
    if options["arch"].startswith(models.HUB):
        assert "/" in options["arch"]
        return
    assert options["pretrained"] in open_clip.list_pretrained_tags_by_model(options["arch"])


@pytest.mark.parametrize(
    ("name", "arch", "tag"),
    [
        ("ViT-B-16", "ViT-B-16", ""),
        ("ViT-B-16:laion2b_s34b_b88k", "ViT-B-16", "laion2b_s34b_b88k"),
        ("openai/clip-vit-base-patch32", "ViT-B-32-quickgelu", "openai"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384", "webli"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32", "laion2b_s34b_b79k"),
        ("timm/ViT-B-16-SigLIP2", "ViT-B-16-SigLIP2", "webli"),
        ("hf-hub:org/name", "hf-hub:org/name", ""),
        ("'local-dir:/a folder/b'", "local-dir:/a folder/b", ""),
        ("local-dir:./a", "local-dir:./a", ""),
    ],
)
def test_names_that_people_have(name, arch, tag):
    (model,) = chosen(name)
    assert (model["arch"], model["pretrained"]) == (arch, tag)


def test_an_option_replaces_what_a_name_says():
    (model,) = chosen("openai/clip-vit-base-patch32", "model.pretrained=random")
    assert model["pretrained"] == "random"


def test_names_of_all_kinds_sweep_together():
    found = chosen("toyclip,ViT-B-32:openai,openai/clip-vit-base-patch16")
    assert [model.get("arch") for model in found] == [None, "ViT-B-32", "ViT-B-16-quickgelu"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-61", r"^unknown model 'ViT-B-61' \(did you mean 'ViT-B-16'\?\); valid: .*local-dir:FOLDER"),
        ("openai/clip-vit-base-patch23", r"did you mean 'openai/clip-vit-base-patch32'\?"),
        ("org/name", "for a repository of the hub with an open_clip_config.json write model=hf-hub:org/name$"),
    ],
)
def test_an_unknown_name_gets_one_line(name, message):
    with pytest.raises(ConfigError, match=message):
        chosen(name)


@pytest.mark.parametrize("name", [name for name in registry.names("model") if name != "openclip"])
def test_every_yaml_names_weights_and_a_layer_that_exist(name):
    source = registry.build("model", registry.read("model", name))
    arch = getattr(source, "arch", "")
    if arch and not arch.startswith(models.HUB):
        assert source.tag in open_clip.list_pretrained_tags_by_model(arch)


def test_a_tag_that_an_architecture_lacks_lists_those_it_has():
    with pytest.raises(
        ModelError, match=r"^unknown pretrained tag of RN50 'webli'; valid: openai, yfcc15m, cc12m, random"
    ):
        registry.build("model", chosen("RN50:webli")[0]).identity()
