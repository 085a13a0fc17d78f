import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rewire.tasks.unpickle import unpickle

NUMBERS = st.sampled_from(["?", "i1", "<i4", ">i4", "i8", "u1", "<u2", "f4", ">f8"]).map(np.dtype)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.binary(), inner),
)


@given(arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)), st.integers(0, 5), st.booleans())
def test_arrays_come_back_as_from_an_ordinary_unpickler(array, protocol, by_column):
    array = np.asfortranarray(array) if by_column else array
    content = pickle.dumps({b"data": array}, protocol)
    read, ordinary = unpickle(content)[b"data"], pickle.loads(content)[b"data"]
    assert read.dtype == ordinary.dtype
    assert read.shape == ordinary.shape == array.shape
    assert read.tobytes() == ordinary.tobytes()


@given(PLAIN, st.integers(0, 5))
def test_plain_containers_come_back(value, protocol):
    assert unpickle(pickle.dumps(value, protocol)) == value


def test_old_and_new_names_of_numpys_core():
    content = pickle.dumps(np.arange(3), protocol=2)
    new = content.replace(b"numpy.core.", b"numpy._core.")
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert new != old
    assert unpickle(new).tolist() == unpickle(old).tolist() == [0, 1, 2]


def python2_string(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def python2_batch(data: np.ndarray, labels: list[int]) -> bytes:
    """What cPickle of Python 2 wrote for {"data": uint8 array, "labels": list}: byte strings, protocol 2."""
    kind = b"cnumpy\ndtype\n" + python2_string(b"u1") + b"K\x00K\x01\x87R"
    kind += b"(K\x03" + python2_string(b"|") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    shape = b"".join(b"J" + struct.pack("<i", extent) for extent in data.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + python2_string(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + python2_string(data.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + python2_string(b"data") + array + python2_string(b"labels") + numbers + b"u."


def test_a_file_of_python_2():
    data = np.arange(2 * 300, dtype=np.int64).astype(np.uint8).reshape(2, 300)
    content = python2_batch(data, [3, 7])
    ordinary = pickle.loads(content, encoding="bytes")  # two routes: the ordinary unpickler reads our bytes too
    read = unpickle(content)
    assert read.keys() == ordinary.keys() == {b"data", b"labels"}
    assert (read[b"data"] == ordinary[b"data"]).all()
    assert (read[b"data"] == data).all()
    assert read[b"labels"] == [3, 7]


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("function", [os.system, eval, exec])
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, function, protocol):
    trace = tmp_path / "trace"
    order = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()"
    content = pickle.dumps({b"data": np.arange(3), b"labels": Malicious(function, order)}, protocol)
    with pytest.raises(pickle.UnpicklingError, match=r"it asks for \w+\.\w+, not an array or a plain container"):
        unpickle(content)
    assert not trace.exists()
    pickle.loads(content)  # the test can fail: an ordinary unpickler does run it
    assert trace.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{1}, "text"], dtype=object),
        np.array(["text"]),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(value):
    with pytest.raises(pickle.UnpicklingError, match="only plain numbers are read"):
        unpickle(pickle.dumps(value, protocol=4))


def test_a_forged_state_of_a_dtype_stays_a_number():
    """numpy itself lets a state redefine a dtype, which is a way to forged pointers."""
    content = pickle.dumps(np.arange(2, dtype="<i4"), protocol=2)
    forged = content.replace(b"NNNJ\xff\xff\xff\xff", b"]NNJ\xff\xff\xff\xff")
    assert forged != content
    assert unpickle(forged).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cnumpy\nndarray\n(K\x03tR.", "it calls numpy.ndarray itself"),
        (b"cnumpy\ndtype\nN}X\x09\x00\x00\x00_functionNs\x86b.", "it sets '_function' on a function"),
        (b"cnumpy\ndtype\n}X\x09\x00\x00\x00_functionNsb.", "damaged or cut short"),
        (b"cnumpy.core.multiarray\nscalar\n.", "it asks for numpy.core.multiarray.scalar"),
        (b"cbuiltins\ngetattr\n.", "it asks for builtins.getattr"),
        (b"cnumpy\ncore.multiarray._reconstruct\n.", "it asks for numpy.core.multiarray._reconstruct"),
        (b"", "damaged or cut short"),
        (b"not a pickle", "damaged or cut short|invalid load key|could not find MARK|unpickling stack"),
    ],
)
def test_what_else_is_refused(content, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        unpickle(content)


def test_a_file_cut_short_anywhere_is_refused():
    content = pickle.dumps({b"data": np.arange(4, dtype=np.uint8), b"labels": [0, 1]}, protocol=4)
    for length in range(len(content)):
        with pytest.raises(pickle.UnpicklingError):
            unpickle(content[:length])
