"""What every method promises: batches, costs, bounded memory, and no NaN from degenerate input."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import yaml

from decomcam_bench.config import registry
from decomcam_bench.core.errors import MethodError
from decomcam_bench.methods.base import Evidence, Explanation, Method, explained

from .conftest import Scorer, plain_evidence, select

NAMES = registry.names("method")
OF_THIS_PACKAGE = [
    name
    for name in NAMES
    if str(registry.read("method", name)["impl"]).startswith("decomcam_bench.methods.")
    # Reads a folder, not evidence; tests/methods/test_files.py has its contract.
    if name != "files"
]
#: Their cost is an upper bound: channels or groups that are nowhere positive are left out.
BOUNDED = {"scorecam_pp", "groupcam", "topchannels", "kmeans", "dff"}
READS_LAYER = [name for name in OF_THIS_PACKAGE if registry.build("method", registry.read("method", name)).uses_layer]
READS_GRADIENTS = [
    name for name in OF_THIS_PACKAGE if "gradients" in registry.build("method", registry.read("method", name)).needs
]
RANK = 4


#: Fewer masks and steps than in practice, which would prove no more here.
SMALL = {"rise": {"masks": 40}, "integrated_gradients": {"steps": 3}, "smoothgrad": {"samples": 3}}


def build(name: str) -> Method:
    return registry.build("method", {**registry.read("method", name), **SMALL.get(name, {})})


def run(method: Method, evidence: Evidence, rank: int = RANK) -> Explanation:
    asked = rank if method.ranked else None
    return method.explain(evidence, [asked])[asked]


def counted(evidence: Evidence) -> list[int]:
    """Counts how many pairs' gradients are computed, in a list of one number."""
    gradients, count = evidence.gradients, [0]

    def compute() -> torch.Tensor:
        count[0] += len(gradients)
        return gradients

    evidence.gradients_source = compute
    attentions = evidence.extras["attentions"]

    def attend() -> torch.Tensor:
        count[0] += len(gradients)
        return attentions()

    evidence.extras["attentions"] = attend
    capacity = evidence.extras["bottleneck_capacity"]

    def optimise(block: int, beta: float, steps: int, samples: int, seeds: object) -> object:
        count[0] += len(gradients) * steps * samples
        return capacity(block, beta, steps, samples, seeds)

    evidence.extras["bottleneck_capacity"] = optimise
    for name in ("legrad_gradients", "class_token_gradients"):

        def count_pairs(argument: object, name: str = name, made: object = evidence.extras[name]) -> object:
            count[0] += len(gradients)
            return made(argument)

        evidence.extras[name] = count_pairs
    return count


def check(answer: Explanation, pairs: int, size: tuple[int, int]) -> None:
    """Finite, non-negative maps; each pair has a map or a reason."""
    maps = answer.maps(size)
    assert maps.shape == (pairs, *size)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert (maps >= 0).all()
    for pair in range(pairs):
        assert (pair in answer.failures) == (not maps[pair].any())
    for reason in answer.failures.values():
        assert reason.replace("_", "").isalpha()
        assert reason.islower()
    if answer.components is not None:
        for value in dataclasses.asdict(answer.components).values():
            assert not isinstance(value, torch.Tensor) or value.isfinite().all()


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_the_yaml_writes_out_every_option(name: str) -> None:
    config = yaml.safe_load((registry.config_folder() / "method" / f"{name}.yaml").read_text())
    method = registry.build("method", registry.read("method", name))
    options = {key: value for key, value in config.items() if key not in registry.DESCRIPTIVE}
    expected = dataclasses.asdict(method)
    if not method.needs & {
        "gradients",
        "score",
        "head",
        "attentions",
        "legrad_gradients",
        "class_token_gradients",
        "image_gradients",
    }:
        del expected["score"]
    assert options == expected
    assert config["name"] == name
    assert "\n" not in config["description"]


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_a_batch_equals_its_pairs_one_by_one(name: str) -> None:
    evidence, _ = plain_evidence()
    together = run(build(name), evidence)
    check(together, 3, (24, 20))
    assert not together.failures
    for pair in range(3):
        alone = run(build(name), select(plain_evidence()[0], [pair]))
        expected = together.maps((24, 20))[pair]
        torch.testing.assert_close(alone.maps((24, 20))[0], expected, atol=1e-4 * float(expected.max()), rtol=0)


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize("channels", [1, 3, 12])
def test_declared_cost_is_the_true_one(name: str, channels: int) -> None:
    evidence, scorer = plain_evidence(channels=channels, grid=(5, 4))
    evidence.image_activations += (
        0.01 * torch.randn(evidence.image_activations.shape, generator=torch.Generator().manual_seed(9)).abs()
    )
    backward = counted(evidence)
    method = build(name)
    cost = method.cost(RANK if method.ranked else None, channels)
    run(method, evidence)
    assert backward[0] + scorer.differentiated == 3 * cost.backward
    assert scorer.headed == 3 * cost.head
    expected = 3 * (cost.scored - cost.shared) + 2 * cost.shared
    if name in BOUNDED:
        assert scorer.scored <= expected
    else:
        assert scorer.scored == expected


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize("bad", [False, True])
def test_each_pair_says_how_many_of_its_images_were_scored(name: str, bad: bool) -> None:
    """Whatever larger ranks were asked for with it; a pair that fails was scored as often as it was."""
    method = build(name)
    ranks = [1, RANK, 30] if method.ranked else [None]
    together = explained(method, _sparse(bad)[0], ranks)
    for rank in ranks:
        evidence, asked = _sparse(bad)
        alone = explained(method, evidence, [rank])[rank]
        expected = torch.bincount(torch.cat([torch.zeros(0, dtype=torch.int64), *asked]), minlength=3).tolist()
        cost = method.cost(rank, 12)
        assert [exact.scored for exact in alone.costs(cost)] == expected
        assert [exact.scored for exact in together[rank].costs(cost)] == expected
        assert max(expected) <= cost.scored


@pytest.mark.parametrize("scored", [torch.zeros(2, dtype=torch.int64), torch.zeros(3), [1, 1, 1]])
def test_numbers_of_scored_images_are_one_a_pair(scored: object, monkeypatch: pytest.MonkeyPatch) -> None:
    method, evidence = build("decomcam"), plain_evidence()[0]
    answer = dataclasses.replace(run(method, evidence), scored=scored)
    monkeypatch.setattr(type(method), "explain", lambda *_: {RANK: answer})
    with pytest.raises(MethodError, match=r"must be an int64 tensor of shape \(3,\)"):
        explained(method, evidence, [RANK])


def _sparse(bad: bool) -> tuple[Evidence, list[torch.Tensor]]:
    """Evidence with dead channels, of a broken image if ``bad``, and the pairs that it is asked to score."""
    evidence, _ = plain_evidence()
    evidence.image_activations[:, 2:4] = 0
    evidence.image_activations[0, 7] = 0
    if bad:
        evidence.image_activations[1, 5] = torch.nan
    asked: list[torch.Tensor] = []
    score, score_images = evidence.score, evidence.score_images

    def counted(images: torch.Tensor, pair: torch.Tensor) -> torch.Tensor:
        asked.append(pair)
        return score(images, pair)

    def counted_for_all(images: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        asked.extend(torch.tensor(p).expand(int((image == own).sum())) for p, own in enumerate((0, 0, 1)))
        return score_images(images, image)

    evidence.score, evidence.score_images = counted, counted_for_all
    return evidence, asked


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_no_more_than_a_batch_is_alive(name: str, batch_size: int) -> None:
    evidence, scorer = plain_evidence(batch_size=batch_size)
    run(build(name), evidence)
    assert scorer.largest <= batch_size


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_a_method_reads_only_what_it_declares(name: str) -> None:
    evidence, _ = plain_evidence()
    method = build(name)
    allowed = {field: getattr(evidence, field) for field in ("score", "head", "object_masks") if field in method.needs}
    if "score" in method.needs:
        allowed["score_images"] = evidence.score_images
    allowed["extras"] = {extra: make for extra, make in evidence.extras.items() if extra in method.needs}
    if "gradients" in method.needs:
        allowed["gradients_source"] = evidence.gradients
    bare = Evidence(
        images=evidence.images,
        image_of=evidence.image_of,
        image_activations=evidence.image_activations,
        mean=evidence.mean,
        std=evidence.std,
        seeds=evidence.seeds if method.random else (),
        image_seeds=evidence.image_seeds if method.random else (),
        **allowed,
    )
    check(run(method, bare), 3, (24, 20))


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_inputs_stay_as_they_were(name: str) -> None:
    evidence, _ = plain_evidence()
    before = [x.clone() for x in (evidence.images, evidence.image_activations, evidence.gradients)]
    run(build(name), evidence)
    after = (evidence.images, evidence.image_activations, evidence.gradients)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", READS_LAYER)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["activations", "gradients"])
def test_a_pair_that_is_not_finite_fails_alone(name: str, bad: float, where: str) -> None:
    method = build(name)
    if where == "gradients" and "gradients" not in method.needs:
        pytest.skip("reads no gradients")
    good = run(method, plain_evidence()[0])
    evidence, _ = plain_evidence()
    if where == "activations":
        evidence.image_activations[1, 2, 0, 0] = bad
        broken, whole = 2, [0, 1]
    else:
        evidence.gradients[1, 2, 0, 0] = bad
        broken, whole = 1, [0, 2]
    answer = run(method, evidence)
    check(answer, 3, (24, 20))
    assert answer.failures == {broken: f"non_finite_{where}"}
    torch.testing.assert_close(answer.native[whole], good.native[whole], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", READS_GRADIENTS)
def test_zero_gradients_are_a_reason(name: str) -> None:
    evidence, _ = plain_evidence()
    evidence.gradients[0] = 0
    answer = run(build(name), evidence)
    check(answer, 3, (24, 20))
    assert answer.failures == {0: "zero_gradients"}


@pytest.mark.parametrize("name", READS_LAYER)
def test_a_pair_that_fails_is_not_scored(name: str) -> None:
    evidence, scorer = plain_evidence()
    evidence.image_activations[1] = torch.nan
    method = build(name)
    run(method, evidence)
    cost = method.cost(RANK if method.ranked else None, 12)
    assert scorer.scored <= 2 * cost.scored
    assert scorer.headed <= 2 * cost.head


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_a_constant_layer_gives_a_map_or_a_reason(name: str, value: float) -> None:
    evidence, _ = plain_evidence()
    evidence.image_activations[1] = value
    evidence.images[1] = 0.2
    answer = run(build(name), evidence)
    check(answer, 3, (24, 20))
    assert not set(answer.failures) & {0, 1}


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize(
    ("channels", "grid"), [(1, (5, 4)), (1, (1, 1)), (6, (1, 1)), (2, (1, 7)), (5, (3, 9)), (40, (2, 2))]
)
def test_odd_shapes(name: str, channels: int, grid: tuple[int, int]) -> None:
    evidence, _ = plain_evidence(channels=channels, grid=grid)
    method = build(name)
    check(run(method, evidence), 3, (24, 20))
    if method.ranked:
        check(run(method, plain_evidence(channels=channels, grid=grid)[0], rank=50), 3, (24, 20))


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_evidence(name: str, dtype: torch.dtype) -> None:
    evidence, scorer = plain_evidence(dtype=dtype)
    answer = run(build(name), evidence)
    check(answer, 3, (24, 20))
    assert not answer.failures
    assert all(images.dtype == dtype for images in scorer.images)


@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_no_pairs(name: str) -> None:
    evidence, scorer = plain_evidence()
    empty = Evidence(
        images=evidence.images,
        image_of=torch.zeros(0, dtype=torch.int64),
        image_activations=evidence.image_activations,
        gradients_source=torch.zeros(0, 12, 5, 4),
        score=scorer.score,
        score_images=scorer.score_images,
        image_seeds=evidence.image_seeds,
        head=scorer.head,
        object_masks=lambda: torch.zeros(0, 24, 20, dtype=torch.bool),
        extras=select(evidence, []).extras,
    )
    assert run(build(name), empty).maps((24, 20)).shape == (0, 24, 20)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", OF_THIS_PACKAGE)
def test_cpu_equals_cuda(name: str) -> None:
    shape = {"channels": 40, "grid": (7, 7), "size": (56, 56)}
    cpu = run(build(name), plain_evidence(**shape)[0])
    cuda = run(build(name), plain_evidence(**shape, device="cuda")[0])
    a, b = cpu.maps((56, 56)), cuda.maps((56, 56)).cpu()
    torch.testing.assert_close(b, a, atol=1e-3 * float(a.max()), rtol=0)
    assert cpu.failures == cuda.failures


def test_the_scorer_of_these_tests_counts() -> None:
    evidence, scorer = plain_evidence()
    assert isinstance(scorer, Scorer)
    evidence.score(evidence.images, torch.tensor([0, 1]))
    assert (scorer.scored, scorer.largest) == (2, 2)
