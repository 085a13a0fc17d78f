import gzip

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewire.tasks.graphs.edges import Edges, read_edges, simple

ADVICE = "Correct the line, or leave it out by a # at its start."
FORMAT = "an edge is `u v`, `u v time` or `u v weight time`"


def written(folder, text, name="toy.txt"):
    path = folder / name
    path.write_text(text)
    return path


def test_one_graph_in_every_form(tmp_path):
    forms = {
        "blanks.txt": "ann bob 3\nbob carl 1.5\n",
        "tabs.txt": "ann\tbob\t3\r\nbob\tcarl\t1.5\r\n",
        "commas.csv": "ann,bob,3\nbob, carl, 1.5",
        "comments.txt": "# from to time\n% made by hand\n\nann bob 3\n  # between\nbob carl 1.5\n\n",
        "weights.edges": "ann bob 7 3\nbob carl 7 1.5\n",
    }
    paths = [written(tmp_path, text, name) for name, text in forms.items()]
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(forms["blanks.txt"].encode()))
    for path in [*paths, tmp_path / "packed.txt.gz"]:
        edges = read_edges(path)
        assert edges.name == path.name.split(".")[0]
        assert edges.names == ("ann", "bob", "carl")
        assert edges.pairs.tolist() == [[0, 1], [1, 2]]
        assert edges.times.tolist() == [3.0, 1.5]
        assert edges.directed
        assert edges.note == ""


def test_without_times_it_is_undirected(tmp_path):
    edges = read_edges(written(tmp_path, "b a\nc b\nb c\na a\nb a\n"))
    assert edges.names == ("b", "a", "c")
    assert edges.pairs.tolist() == [[0, 1], [0, 2]]  # the smaller number first
    assert edges.times is None
    assert repr(edges) == "Edges(toy: 3 nodes, 2 edges, undirected, 2 repeated edges and 1 self loops left out)"
    directed = read_edges(tmp_path / "toy.txt", directed=True)
    assert directed.pairs.tolist() == [[0, 1], [2, 0], [0, 2]]
    assert directed.note == "1 repeated edges and 1 self loops left out"


def test_the_same_pair_at_another_time_is_another_event(tmp_path):
    path = written(tmp_path, "0 1 5\n1 0 5\n0 1 5\n0 1 4\n1 1 9\n")
    edges = read_edges(path)
    assert edges.pairs.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert edges.times.tolist() == [5, 5, 4]
    assert repr(edges) == (
        "Edges(toy: 2 nodes, 3 edges, directed with times, 1 repeated edges and 1 self loops left out)"
    )
    assert read_edges(path, directed=False).times.tolist() == [5, 4]


def test_simple_keeps_the_first_meeting_of_each_two(tmp_path):
    edges = simple(read_edges(written(tmp_path, "0 1 5\n2 1 3\n1 0 4\n1 2 3\n0 2 9\n")))
    assert edges.pairs.tolist() == [[1, 2], [0, 1], [0, 2]]
    assert edges.times.tolist() == [3, 4, 9]
    assert not edges.directed
    assert edges.note == "2 edges between nodes already joined left out"


pairs = st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-3, 3)).filter(lambda event: event[0] != event[1])


@given(st.lists(pairs, min_size=1, max_size=40))
def test_what_is_read_is_what_was_written_without_repetitions(tmp_path_factory, events):
    text = "".join(f"n{u} n{v} {t}\n" for u, v, t in events)
    edges = read_edges(written(tmp_path_factory.mktemp("any"), text))
    if len({t for *_, t in events}) == 1:
        assert edges.times is None
        assert not edges.directed
        return
    read = [
        (edges.names[u], edges.names[v], t)
        for (u, v), t in zip(edges.pairs.tolist(), edges.times.tolist(), strict=True)
    ]
    assert read == list(dict.fromkeys((f"n{u}", f"n{v}", float(t)) for u, v, t in events))


@pytest.mark.parametrize("text", ["0 1 1\n2 1 1.0\n1 0 1\n", "0 1 7 1\n2 1 8 1\n1 0 9 1\n"])
def test_times_that_are_all_equal_are_none(tmp_path, text):
    edges = read_edges(written(tmp_path, text))
    assert (edges.pairs.tolist(), edges.times, edges.directed) == ([[0, 1], [1, 2]], None, False)
    assert edges.note == "all times are equal (1) and left out; 1 repeated edges left out"
    assert read_edges(tmp_path / "toy.txt", directed=True).pairs.tolist() == [[0, 1], [2, 1], [1, 0]]
    assert read_edges(written(tmp_path, text[:-2] + "1.5\n")).times.tolist() == [1, 1, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n2\n", "line 2: '2' has 1 column, and {FORMAT}. {ADVICE}"),
        ("# x\n0 1 2 3 4\n", "line 2: '0 1 2 3 4' has 5 columns, and {FORMAT}. {ADVICE}"),
        ("0 1 5\n\n1 2\n", "line 3: '1 2' has 2 columns, and the lines before it have 3. {ADVICE}"),
        ("a,b\na,,b\n", "line 2: 'a,,b' has an empty column, and {FORMAT}. {ADVICE}"),
        ("a,b\na,\n", "line 2: 'a,' has an empty column, and {FORMAT}. {ADVICE}"),
        ("0 1 5\n1 2 noon\n", "line 2: '1 2 noon' has the time 'noon', which is not a finite number. {ADVICE}"),
        ("0 1 nan\n", "line 1: '0 1 nan' has the time 'nan', which is not a finite number. {ADVICE}"),
        ("from,to,time\n", "line 1: 'from,to,time' has the time 'time', which is not a finite number. {ADVICE}"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole text is compared)
        read_edges(path)
    assert str(caught.value) == f"{path}, " + message.format(FORMAT=FORMAT, ADVICE=ADVICE)


def test_what_is_no_edge_list_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No edge list: there is no file .*none\. An edge is `u v`"):
        read_edges(tmp_path / "none")
    with pytest.raises(ValueError, match=r"toy\.txt holds no edge: an edge is `u v`.* Type the path of an edge list\."):
        read_edges(written(tmp_path, "# nothing\n"))
    with pytest.raises(ValueError, match=r"^toy holds no edge but self loops, so there is no link to predict\.$"):
        read_edges(written(tmp_path, "1 1\n2 2\n"))
    with pytest.raises(ValueError, match=r"first edge joins 'from' and 'to', which never come again.* Put a #"):
        read_edges(written(tmp_path, "from,to\n1,2\n2,3\n"))
    cut = gzip.compress(b"0 1\n" * 1000)[:-9]
    (tmp_path / "cut.gz").write_bytes(cut)
    with pytest.raises(ValueError, match=r"cut\.gz cannot be unpacked: .* Fetch the file again\."):
        read_edges(tmp_path / "cut.gz")


def test_words_and_numbers_may_be_mixed(tmp_path):
    assert read_edges(written(tmp_path, "a b\na 1\n")).names == ("a", "b", "1")


def test_names_that_are_not_utf8_stay_distinct(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\xe4 \xf6\n\xe4 u\n")
    assert read_edges(path).pairs.tolist() == [[0, 1], [0, 2]]


def test_real_events(graphs_folder):
    edges = read_edges(graphs_folder / "CollegeMsg-temporal.txt")
    assert isinstance(edges, Edges)
    assert (edges.nodes, len(edges), edges.directed) == (1899, 59798, True)  # of 59835 lines
    assert edges.note == "37 repeated edges left out"
    assert torch.equal(edges.times, edges.times.sort().values)
