"""What people and tools see of a loss: signature, docstring, help, bind, pickle, completion."""

import copy
import doctest
import importlib
import inspect
import pickle
import pkgutil
import pydoc
import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import fastloss as fl
from samples import LOSSES, METHODS, every_loss, inputs

COMMON = {
    "sample_weight": None,
    "mask": None,
    "reduction": "mean",
    "normalizer": None,
    "out": None,
    "num_threads": None,
}
DOCUMENTED = {
    fl.mse_loss: {},
    fl.huber_loss: {"delta": 1.0},
    fl.binary_cross_entropy_with_logits: {"pos_weight": None, "label_smoothing": 0.0},
    fl.sigmoid_focal_loss: {"gamma": 2.0, "alpha": 0.25},
    fl.cross_entropy: {
        "class_weight": None,
        "label_smoothing": 0.0,
        "temperature": 1.0,
        "z_loss": 0.0,
        "softcap": None,
        "class_mask": None,
        "ignore_index": None,
        "axis": -1,
    },
}
BOUND = {
    "huber": fl.huber_loss.bind(delta=2.0, reduction="sum"),
    "threads": fl.mse_loss.bind(num_threads=1),
    "optional": fl.sigmoid_focal_loss.bind(alpha=None),
    "array": fl.cross_entropy.bind(class_weight=[1.0, 2.0, 3.0, 4.0], ignore_index=2),
    "nothing": fl.mse_loss.bind(),
}
every_bound = pytest.mark.parametrize("bound", BOUND.values(), ids=BOUND)


def keywords(call):
    """Keyword-only parameters and their defaults, after a look at the rest."""
    first, second, *rest = inspect.signature(call).parameters.values()
    assert (first.name, second.name) == ("pred", "target")
    assert first.default is second.default is inspect.Parameter.empty
    assert all(p.kind is p.KEYWORD_ONLY for p in rest)
    return {p.name: p.default for p in rest}


@every_loss
def test_the_signature_is_the_losss_own(loss):
    knobs = {name: knob.default for name, knob in loss.knobs.items()}
    assert knobs == DOCUMENTED.get(loss, knobs)
    for call in (loss, *(getattr(loss, m) for m in METHODS if m != "__call__")):
        assert keywords(call) == knobs | COMMON
    shown = keywords(loss.normalizer)
    assert shown.items() >= {**knobs, "sample_weight": None, "mask": None}.items()


@every_loss
def test_the_docstring_opens_with_the_signature(loss):
    first, blank, summary = loss.__doc__.splitlines()[:3]
    assert first.startswith(f"{loss.name}(pred, target, *")
    for name, default in keywords(loss).items():
        assert f"{name}={default!r}" in first
    assert not blank and summary


@every_loss
def test_help_tells_the_formula_and_every_parameter(loss):
    text = pydoc.plain(pydoc.render_doc(loss))
    assert "".join(loss.formula.split()) in "".join(text.split())
    for section in ("Parameters", "Raises", "Examples"):
        assert f"{section}\n" in text
    for name in ["pred", "target", *loss.knobs]:
        assert re.search(rf"^(\w+, )*{name}(, \w+)* : ", inspect.getdoc(loss), re.M), name
    for name in COMMON:
        assert name in text
    assert loss.name in repr(loss)


@every_loss
def test_methods_have_help_of_their_own(loss):
    for method in [*METHODS, "normalizer"][1:]:
        text = pydoc.plain(pydoc.render_doc(getattr(loss, method)))
        assert f"{loss.name}.{method}(pred, target, *" in text
        assert all(f"{name}=" in text for name in loss.knobs)
    assert "reduction" in inspect.getdoc(loss.bind)


@every_loss
def test_completion_offers_the_methods(loss):
    names = {*METHODS, "normalizer", "bind", "name", "kind", "formula", "naive", "domain", "knobs"}
    names |= {"optimal_constant", "link"}
    assert names <= set(dir(loss))
    assert loss.name in dir(fl)


def examples():
    modules = [fl] + [
        importlib.import_module(f"fastloss.{m.name}")
        for m in pkgutil.iter_modules(fl.__path__)
        if m.name not in ("__main__", "demo")
    ]
    return {t.name: t for module in modules for t in doctest.DocTestFinder().find(module)}


@every_loss
def test_examples_are_collected_and_right(loss):
    found = [t for name, t in examples().items() if name.endswith(f".{loss.name}") and t.examples]
    assert found, "doctest collects no example of this loss"
    for test in found:
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.attempted and not result.failed


@every_loss
def test_a_loss_reads_like_a_function(loss):
    assert loss.__name__ == loss.__qualname__ == loss.name
    assert loss.__module__.startswith("fastloss")
    assert callable(loss.__wrapped__) and inspect.unwrap(loss) is loss.__wrapped__


# bind


@every_loss
def test_bind_is_the_call_with_those_defaults(loss):
    pred, target = inputs(loss)
    settings = {
        fl.huber_loss: {"delta": 0.3},
        fl.binary_cross_entropy_with_logits: {"pos_weight": np.arange(5) + 1.0},
        fl.sigmoid_focal_loss: {"gamma": 1.5, "alpha": None},
        fl.cross_entropy: {"class_weight": [0.5, 1, 2, 0], "label_smoothing": 0.1},
    }.get(loss, {}) | {"reduction": "sum", "num_threads": 1}
    bound = loss.bind(**settings)
    assert isinstance(bound, fl.Loss) and bound.name == loss.name
    for method in METHODS:
        got = getattr(bound, method)(pred, target)
        want = getattr(loss, method)(pred, target, **settings)
        for a, b in zip(*((r if type(r) is tuple else (r,)) for r in (got, want)), strict=True):
            assert_array_equal(a, b)
    assert bound.normalizer(pred, target) == loss.normalizer(
        pred, target, **{k: v for k, v in settings.items() if k in loss.knobs}
    )
    assert bound(pred, target, reduction="mean") == loss(
        pred, target, **settings | {"reduction": "mean"}
    )


def test_bound_defaults_are_shown():
    bound = BOUND["huber"]
    assert keywords(bound) == {**COMMON, "delta": 2.0, "reduction": "sum"}
    assert keywords(bound.value_and_grad) == keywords(bound)
    assert "delta=2.0" in bound.__doc__.splitlines()[0] and "delta=2.0" in repr(bound)
    assert keywords(fl.huber_loss)["delta"] == 1.0


def test_a_call_overrides_what_is_bound():
    bound = fl.huber_loss.bind(delta=2.0, reduction="none")
    assert bound(5.0, 0.0, delta=1.0, reduction="sum") == fl.huber_loss(5.0, 0.0) == 4.5
    focal = fl.sigmoid_focal_loss.bind(alpha=None)
    assert focal(1.0, 1.0, alpha=0.25) == fl.sigmoid_focal_loss(1.0, 1.0)


def test_bind_nests():
    step = fl.huber_loss.bind(delta=3.0).bind(reduction="sum").bind(delta=2.0)
    assert step == BOUND["huber"] and hash(step) == hash(BOUND["huber"])
    with pytest.raises(ValueError, match=r"huber_loss.*delta"):
        step.bind(delta=-1.0)


def test_equality_and_hash():
    distinct = [*LOSSES, BOUND["huber"], BOUND["threads"], BOUND["optional"], BOUND["array"]]
    distinct += [fl.huber_loss.bind(delta=2.0), fl.huber_loss.bind(delta=3.0)]
    distinct += [fl.cross_entropy.bind(class_weight=w) for w in ([1.0, 2.0], [1.0, 3.0], [1.0])]
    for i, a in enumerate(distinct):
        for j, b in enumerate(distinct):
            assert (a == b) is (i == j), (a, b)
            assert (a != b) is (i != j)
    assert len(set(distinct)) == len(distinct)
    assert fl.mse_loss not in ("mse_loss", None)
    again = fl.cross_entropy.bind(ignore_index=2, class_weight=np.arange(1.0, 5.0))
    assert again == BOUND["array"] and hash(again) == hash(BOUND["array"])
    assert fl.huber_loss.bind(delta=2) == fl.huber_loss.bind(delta=2.0)
    swapped = fl.cross_entropy.bind(class_weight=np.arange(1, 5, dtype=">i4"), ignore_index=2)
    assert pickle.loads(pickle.dumps(swapped)) == swapped == again


@pytest.mark.parametrize("loss", [*LOSSES, *BOUND.values()], ids=repr)
@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy]
    + [lambda x, p=p: pickle.loads(pickle.dumps(x, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)],
)
def test_copies_and_pickles_are_equal_and_work(loss, clone):
    twin = clone(loss)
    assert twin == loss and hash(twin) == hash(loss) and repr(twin) == repr(loss)
    pred, target = inputs(loss)
    target[target == 2] = 0
    for method in METHODS:
        got, want = (getattr(f, method)(pred, target, reduction="none") for f in (twin, loss))
        assert_array_equal(got, want) if method in ("grad", "__call__") else [
            assert_array_equal(a, b) for a, b in zip(got, want, strict=True)
        ]


def test_a_pickled_loss_is_the_modules_own():
    for loss in LOSSES:
        assert pickle.loads(pickle.dumps(loss)) is loss


def test_methods_pickle_too():
    grad = pickle.loads(pickle.dumps(BOUND["huber"].grad))
    assert grad(5.0, 0.0) == 2.0


def test_array_knobs_are_read_only_copies():
    weight = np.array([1.0, 2.0, 3.0, 4.0])
    bound = fl.cross_entropy.bind(class_weight=weight)
    pred, target = inputs(bound)
    before = bound(pred, target)
    weight[:] = 0
    assert bound(pred, target) == before
    kept = keywords(bound)["class_weight"]
    assert_array_equal(kept, [1.0, 2.0, 3.0, 4.0])
    assert kept is not weight and not kept.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 9.0


def test_bound_knobs_are_checked_against_the_data_at_the_call():
    bound = fl.cross_entropy.bind(class_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"cross_entropy: .*class_weight"):
        bound(np.zeros((3, 4)), np.zeros(3, int))


def test_a_booster_wants_the_sum():
    pred, target = inputs(fl.binary_cross_entropy_with_logits, (50,))
    objective = fl.binary_cross_entropy_with_logits.bind(reduction="sum").grad_and_hess
    p = 1 / (1 + np.exp(-pred))
    grad, hess = objective(pred, target)
    np.testing.assert_allclose(grad, p - target, 1e-12)
    np.testing.assert_allclose(hess, p * (1 - p), 1e-12)


@pytest.mark.parametrize(
    ("loss", "name", "bad"),
    [
        (fl.binary_cross_entropy_with_logits, "pos_weight", -1.0),
        (fl.cross_entropy, "class_weight", [1.0, -1.0]),
        (fl.cross_entropy, "class_weight", [[1.0]]),
    ],
)
def test_bind_checks_arrays_at_once(loss, name, bad):
    with pytest.raises(ValueError, match=f"{loss.name}: {name}: expected"):
        loss.bind(**{name: bad})
