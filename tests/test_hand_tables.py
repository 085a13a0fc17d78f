"""Methods that keep each layer's budget, traced by hand over several updates of two small layers.

A step's gradient is of the whole loss, at inactive places too: what must not see it is part of the table.
"""

import torch
from by_hand import FIRST, SECOND, Run, bits, drawn, lots, table

import rewire

torch.set_num_threads(1)

WEIGHTS = ("3 .1 7 -2 / 7 .2 4 7 / 7 7 -1 7", "5 .3 7 / 7 7 -6")  # 7 where inactive
MASKS = ("1101 0110 0010", "110 001")
EVERYWHERE = ("-10 -10 -10 -10 / -10 -10 -10 -10 / -10 -10 -10 -10", "-10 -10 -10 / -10 -10 -10")  # active ones +10


def test_set_drops_the_smallest_and_grows_by_the_draws() -> None:
    """Of 6 and 3 weights ceil(1.8) = 2 and ceil(0.9) = 1 move at each update."""
    run = Run(rewire.set_(4, every=1, fraction=0.3), WEIGHTS, MASKS)
    run.holds("3 .1 0 -2 / 0 .2 4 0 / 0 0 -1 0", "5 .3 0 / 0 0 -6")
    run.step()  # .1 and .2 go, and .3
    assert run.masks == ("1001 0011 0011", "100 011")
    assert run.masks == (drawn("1001 0010 0010", FIRST, 1, 2), drawn("100 001", SECOND, 1, 1))
    run.step(*EVERYWHERE)  # 8 and 9 go, and 4, which comes back as it was
    assert run.masks == ("1010 0011 0101", "100 011")
    assert run.masks == (drawn("1000 0011 0001", FIRST, 2, 2), drawn("100 010", SECOND, 2, 1))
    run.holds("13 0 0 0 / 0 0 14 10 / 0 0 0 10", "15 0 0 / 0 10 4")
    run.step()  # what grew last is 0 and goes, and 4 goes and comes back again
    assert run.masks == ("1000 1011 0101", "100 011")
    assert run.masks == (drawn("1000 0011 0001", FIRST, 3, 2), drawn("100 010", SECOND, 3, 1))
    run.step(*EVERYWHERE)  # none is due in the last interval
    run.holds("23 0 0 0 / 10 0 24 20 / 0 10 0 20", "25 0 0 / 0 20 14")
    assert [tuple(update.moved.values()) for update in run.updates] == [(2, 1), (2, 0), (1, 0)]


def test_set_itop_moves_less_and_less() -> None:
    """By the cosine 0.428, 0.253 and 0.077: of 6 weights 3, 2 and 1, of 3 weights 2, 1 and 1."""
    run = Run(rewire.set_itop(4, every=1), ("-9 3 7 -8 / 7 1 4 7 / 7 7 2 7", WEIGHTS[1]), MASKS)
    run.step()  # 1, 2 and 3 go, .3 and 5
    assert run.masks == ("1011 0011 0001", "001 011")
    assert run.masks == (drawn("1001 0010 0000", FIRST, 1, 3), drawn("000 001", SECOND, 1, 2))
    run.step(*EVERYWHERE)  # -9 and -8 have become 1 and 2, and go; the 1 is grown again
    assert run.masks == ("1010 0011 0101", "101 010")
    assert run.masks == (drawn("0010 0011 0001", FIRST, 2, 2), drawn("001 010", SECOND, 2, 1))
    run.holds("1 0 10 0 / 0 0 14 10 / 0 0 0 10", "0 0 10 / 0 10 0")
    run.step()
    assert run.masks == ("1010 1011 0001", "101 010")
    assert run.masks == (drawn("1010 0011 0001", FIRST, 3, 1), drawn("001 010", SECOND, 3, 1))


def test_rigl_grows_by_the_gradient_until_its_fraction_is_0() -> None:
    """By the cosine from 0.5 to 0 at step 6: 0.375 and 0.125, of 6 weights 3 and 1, of 3 weights 2 and 1."""
    run = Run(rewire.rigl(8, every=2, fraction=0.5, stop=0.75), WEIGHTS, MASKS)
    run.step("1 1 1 1 / 1 1 1 1 / 1 1 1 1", "1 1 1 / 1 1 1")
    run.holds("2 -.9 0 -3 / 0 -.8 3 0 / 0 0 -2 0", "4 -.7 0 / 0 0 -7")
    # .8, .9 and, of two 2, the later go; gradients 6, 5 and 2 come. In the second 4 and .7 go, 8 and 4 come.
    run.step("0 0 5 0 / -6 0 0 1 / 2 0 0 0", "0 0 -3 / 4 8 0")
    assert run.masks == ("1011 1010 1000", "000 111")
    run.holds("2 0 0 -3 / 0 0 3 0 / 0 0 0 0", "0 0 0 / 0 0 -7")
    run.step("0 9 1 0 / 2 0 0 0 / 3 0 0 0", "9 0 0 / .5 .25 0")  # not due: the 9 are masked
    run.holds("2 0 -1 -3 / -2 0 3 0 / -3 0 0 0", "0 0 0 / -.5 -.25 -7")
    # -1 becomes -.5 and is dropped, but has the largest gradient of those that could grow, and keeps its value.
    run.step("0 0 -.5 0 / 0 0 0 0 / 0 0 0 .25", "1 0 0 / 0 0 0")
    assert run.masks == ("1011 1010 1000", "100 101")
    run.holds("2 0 -.5 -3 / -2 0 3 0 / -3 0 0 0", "0 0 0 / -.5 0 -7")
    for _ in range(4):
        run.step("0 9 0 0 / 0 9 0 9 / 0 9 9 9", "0 9 9 / 0 9 0")
    assert run.masks == ("1011 1010 1000", "100 101")
    assert [update.step for update in run.updates] == [2, 4, 6]
    assert run.sparsifier.exploration == (9 + 5) / 18


def test_rigl_itop_grows_by_the_gradient_to_the_end() -> None:
    """Fractions as for SET-ITOP. Ties go to the lower index: it is kept, and it is grown."""
    run = Run(rewire.rigl_itop(4, every=1), WEIGHTS, MASKS)
    run.step("0 0 1 0 / 2 0 0 3 / 4 5 0 6", "0 0 1 / 2 3 0")  # .1, .2 and 1 go, 6, 5 and 4 come
    assert run.masks == ("1001 0010 1101", "000 111")
    run.step("0 2 0 0 / -3 0 0 0 / 1 0 0 0", "1 0 0 / 0 0 0")  # two that grew are still 0, and go; 3 and 2 come
    assert run.masks == ("1101 1010 1000", "100 101")
    run.holds("3 0 0 -2 / 0 0 4 0 / -1 0 0 0", "0 0 0 / 0 0 -6")
    run.step()  # of two zeros the later goes; of equal gradients the first inactive place grows
    assert run.masks == ("1111 0010 1000", "110 001")


def test_mest_drops_by_weight_and_gradient() -> None:
    """Fractions 0.375, 0.25 and 0.125 of the line: of 6 weights 3, 2 and 1, of 3 weights 2, 1 and 1. Nothing learns."""
    run = Run(rewire.mest(4, every=1, fraction=0.5, penalty=1.0), WEIGHTS, MASKS, lr=0.0)
    # abs(w) + abs(g) is 3 5.1 2, 1.7 4, 1: the small .1 stays. In the second: 5, 7.3 and 6.
    run.step("0 5 0 0 / 0 -1.5 0 0 / 0 0 0 0", "0 -7 0 / 0 0 0")
    assert run.masks == ("1110 0011 0001", "010 011")
    assert run.masks == (drawn("1100 0010 0000", FIRST, 1, 3), drawn("010 000", SECOND, 1, 2))
    # 3 .1 1, 4 .05, .2: the .05 and .1 go. In the second: .3, 1 and 6.
    run.step("0 0 1 0 / 0 0 0 .05 / 0 0 0 .2", "0 0 0 / 0 -1 0")
    assert run.masks == ("1010 0010 1101", "100 011")
    assert run.masks == (drawn("1010 0010 0001", FIRST, 2, 2), drawn("000 011", SECOND, 2, 1))
    run.step()  # zeros, of which the last goes
    assert run.masks == (drawn("1010 0010 1100", FIRST, 3, 1), drawn("100 001", SECOND, 3, 1))
    run.holds("3 0 0 0 / 0 0 4 0 / 0 0 0 0", "0 0 0 / 0 0 -6")


def test_soft_mest_grows_first_and_drops_at_the_next_update() -> None:
    """Fractions 0.4, 0.3, 0.2, 0.1 and 0: 3, 2, 2, 1 and 0 above 6, and 2, 1, 1, 1 and 0 above 3."""
    run = Run(rewire.mest(6, every=1, fraction=0.5, penalty=0.0, soft=True), WEIGHTS, MASKS)
    run.step()  # nothing goes
    assert run.masks == ("1111 0111 0011", "111 011")
    assert run.masks == (drawn(MASKS[0], FIRST, 1, 3), drawn(MASKS[1], SECOND, 1, 2))
    run.step("0 0 0 0 / 0 0 0 0 / 0 0 0 -10")  # one that grew becomes 10 and drives out .1; the others go
    assert run.masks == ("1011 0110 0111", "110 011")
    assert run.masks == (drawn("1001 0110 0011", FIRST, 2, 2), drawn("110 001", SECOND, 2, 1))
    run.step()
    assert run.masks == (drawn("1001 0110 0011", FIRST, 3, 2), drawn("110 001", SECOND, 3, 1))
    run.step()
    assert run.masks == (drawn("1001 0110 0011", FIRST, 4, 1), drawn("110 001", SECOND, 4, 1))
    assert [tuple(update.active.values()) for update in run.updates] == [(9, 5), (8, 4), (8, 4), (7, 4)]
    run.step()  # the last drops only
    run.step()
    assert run.masks == ("1001 0110 0011", "110 001")
    run.holds("3 0 0 -2 / 0 .2 4 0 / 0 0 -1 10", "5 .3 0 / 0 0 -6")


def test_top_kast_computes_with_some_trains_more_and_keeps_all() -> None:
    """3 of 12 weights are seen and 6 trained; 3 of 6 and all 6. Each step takes 1/4 from what is seen, and from what
    is only trained 1/4 over the density: 1 in the first layer, 1/2 in the second.
    """
    weights = "12 -1 2 -3 / 4 11 -5 6 / 7 -8 10 9", "6 -5 4 / 3 -2 1"
    run = Run(rewire.top_kast(6, every=2, penalty=0.25), weights, sparsity={"0": 0.75, "1": 0.5})
    assert (run.masks, run.trained) == (("1000 0100 0010", "111 000"), ("1000 0100 1111", "111 111"))
    run.holds("12 0 0 0 / 0 11 0 0 / 0 0 10 0", "6 -5 4 / 0 0 0")
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 6 / 7 -8 0 9"))

    run.step("1 1 1 1 / 1 1 1 1 / 1 1 1 1")  # the untrained get nothing
    run.holds("10.75 0 0 0 / 0 9.75 0 0 / 0 0 8.75 0", "5.75 -4.75 3.75 / 0 0 0")
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 6 / 5 -8 0 7"))
    assert run.kept(SECOND, "reservoir").equal(table("0 0 0 / 2.5 -1.5 .5"))

    run.step()  # 10.5, 9.5 and 8.5 stay; then come -7, 6 and 6, so 4 is no longer trained
    assert (run.masks, run.trained) == (("1000 0100 0010", "111 000"), ("1000 0101 0111", "111 111"))
    run.holds("10.5 0 0 0 / 0 9.5 0 0 / 0 0 8.5 0", "5.5 -4.5 3.5 / 0 0 0")
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 6 / 4 -7 0 6"))

    run.step("0 0 0 0 / 0 0 0 -5 / 3 0 0 0")  # 6 becomes 11, and 10 by the penalty; the 3 meets no trained weight
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 10 / 4 -6 0 5"))
    run.step()  # 9 overtakes 8, which stays trained beside the first two 5
    assert (run.masks, run.trained) == (("1000 0101 0000", "111 000"), ("1000 0111 0110", "111 111"))
    run.holds("10 0 0 0 / 0 9 0 9 / 0 0 0 0", "5 -4 3 / 0 0 0")
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 0 / 4 -5 8 4"))
    assert run.kept(SECOND, "reservoir").equal(table("0 0 0 / 1 0 0"))  # -.5 + .5 is 0, which has no sign


def test_top_kast_keeps_the_optimizers_state_of_what_is_trained_alone() -> None:
    weights = "12 -1 2 -3 / 4 11 -5 6 / 7 -8 10 9", "6 -5 4 / 3 -2 1"
    method = rewire.top_kast(6, every=2, penalty=0.0)
    run = Run(method, weights, sparsity={"0": 0.75, "1": 0.5}, lr=0.5, momentum=0.5)
    ones = "1 1 1 1 / 1 1 1 1 / 1 1 1 1"
    run.step(ones)
    run.step(ones)  # momentum 1, then 1.5: all trained weights lose .5 and .75
    run.holds("10.75 0 0 0 / 0 9.75 0 0 / 0 -9.25 0 0", "6 -5 4 / 0 0 0")  # -9.25 has overtaken 8.75
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 6 / 5.75 0 8.75 7.75"))
    assert run.trained[0] == "1000 0101 0111"  # 5.75 has fallen behind 6, which starts without momentum
    momentum = run.optimizer.state[run.model[0].weight]["momentum_buffer"]
    assert momentum.equal(table("1.5 0 0 0 / 0 1.5 0 0 / 0 1.5 1.5 1.5"))
    run.step(ones)
    run.holds("9.875 0 0 0 / 0 8.875 0 0 / 0 -10.125 0 0", "6 -5 4 / 0 0 0")
    assert run.kept(FIRST, "reservoir").equal(table("0 -1 2 -3 / 4 0 -5 5.5 / 5.75 0 7.875 6.875"))


def test_top_kast_trains_no_other_weight_by_a_gradient_that_was_set_by_hand() -> None:
    """No backward pass, so nothing has masked it."""
    weights = "12 -1 2 -3 / 4 11 -5 6 / 7 -8 10 9", "6 -5 4 / 3 -2 1"
    run = Run(rewire.top_kast(6, every=2), weights, sparsity={"0": 0.75, "1": 0.5})
    run.model[0].weight.grad = torch.ones(3, 4, dtype=torch.float64)
    run.optimizer.step()
    untrained = ~bits(run.trained[0])
    assert run.kept(FIRST, "reservoir")[untrained].equal(table(weights[0])[untrained])


def test_chts_drops_by_weight_and_grows_where_paths_close() -> None:
    """A great power drops the smallest for sure. Of 7 weights 2 move, of 3 weights 1. r is 1 / sqrt(2)."""
    r = 0.5**0.5
    method = rewire.chts(5, every=1, fraction=0.28, power=1e6, end_power=1e6)
    weights = "9 -8 0 7 / 0 6 5 0 / 0 0 .1 .2", "4 3 0 / 0 .5 0"
    run = Run(method, weights, ("1101 0110 0011", "110 010"))
    # .1 and .2 go. Input 3 reaches output 1 over output 2 and input 2, which link nothing else: 1. Inputs 1 and 4 reach
    # output 2 over output 1, which links the other as well, and input 2. In the second layer .5 goes; two links on one
    # output close no path, so that all places are alike.
    run.step()
    assert run.masks == (
        lots("1101 0110 0000", f"0 0 1 0 / {r} 0 0 {r} / 0 0 0 0", FIRST, 1, 2, stream=1),
        lots("110 000", "0 0 0 / 0 0 0", SECOND, 1, 1, stream=1),
    )
    assert run.masks == ("1111 0111 0000", "110 010")
    run.holds("9 -8 0 7 / 0 6 5 0 / 0 0 0 0", "4 3 0 / 0 .5 0")
    # Now the first output loses 7 and what it grew. Inputs 3 and 4 reach it over the second output, each past the
    # other; input 1 reaches the second over the first, past nothing. In the second layer .2 goes.
    run.step("0 0 0 7 / 0 0 0 -3 / 0 0 0 0", "0 2.8 0 / 0 0 0")
    assert run.masks == (
        lots("1100 0111 0000", f"0 0 {r} {r} / 1 0 0 0 / 0 0 0 0", FIRST, 2, 2, stream=1),
        lots("100 010", "0 0 0 / 0 0 0", SECOND, 2, 1, stream=1),
    )
    assert run.masks == ("1101 1111 0000", "110 010")
    run.holds("9 -8 0 0 / 0 6 5 3 / 0 0 0 0", "4 .2 0 / 0 .5 0")
    # Input 2 loses both links. Input 3 reaches the first output over two paths, all within: 2. Nothing else does, so
    # that the second place is drawn among all others, and an output without links gets one.
    run.step("0 -7.5 0 -4 / -10 5 0 0 / 0 0 0 0", "0 -5.8 0 / 0 0 0")
    assert run.masks == (
        lots("1001 1011 0000", "0 0 2 0 / 0 0 0 0 / 0 0 0 0", FIRST, 3, 2, stream=1),
        lots("110 000", "0 0 0 / 0 0 0", SECOND, 3, 1, stream=1),
    )
    assert run.masks == ("1011 1011 1000", "111 000")
    run.holds("9 0 0 4 / 10 0 5 3 / 0 0 0 0", "4 6 0 / 0 0 0")
    run.step()
    run.step()  # none is due in the last interval
    assert [update.step for update in run.updates] == [1, 2, 3, 4]
    assert run.counts == (7, 3)


def test_srigl_ablates_a_neuron_and_gives_its_weights_to_the_others() -> None:
    """Fractions as for RigL; a neuron needs half as many salient weights as neurons have: 1 of 2, and 1/2 of 1."""
    weights = "5 4 0 0 / .1 .2 0 0 / 3 .3 0 0", "2 0 0 / 1 0 0"
    method = rewire.srigl(8, every=2, fraction=0.5, stop=0.75, ablation=0.5)
    run = Run(method, weights, ("1100 1100 1100", "100 100"), lr=0.0)
    run.step()
    # Salient are 5, 4 and 3, and the gradients 9, 8 and 7: three weights of the first neuron, three of the last and
    # none of the second. 6 weights for two neurons. In the second layer 2 and the gradient 3: both neurons stay.
    run.step("0 0 9 0 / 0 0 1 0 / 0 0 8 7", "0 0 0 / 0 0 3")
    assert run.masks == ("1110 0000 1011", "100 001")
    run.holds("5 4 0 0 / 0 0 0 0 / 3 0 0 0", "2 0 0 / 0 0 0")
    run.step()
    # One moves. Salient is now a gradient of the empty neuron, which returns with its two largest; the others drop
    # their smallest, to 2. In the second layer 2 and the gradient 4 are of the first neuron.
    run.step("0 0 0 0 / .5 0 0 6 / 0 0 0 0", "0 4 0 / 0 0 0")
    assert run.masks == ("1100 1001 1010", "110 000")
    run.step()
    run.step("0 0 9 9 / 9 9 9 9 / 9 9 9 9", "9 9 9 / 9 9 9")  # the fraction is 0
    assert run.masks == ("1100 1001 1010", "110 000")
    assert len(run.updates) == 3
