"""Link prediction.

`linkpred` follows the paper's settings: 50 epochs, batches of 1024, SGD with Nesterov momentum 0.9, learning rate 0.1,
weight decay 5e-4, cosine, a uniform budget, and for DST-EE c = 1e-2, times 0.9 every 1000 steps, as in the authors'
link-prediction script. An update every 500 steps, theirs, would leave few on graphs smaller than the paper's, so the
interval is 50 here; all methods that are compared have the same.

For the message-passing ones an epoch is a step: `--evaluate-every 10` spends less on reading the validation edges.
"""

from dataclasses import replace

from rewire.recipe import Recipe


def linkpred() -> Recipe:
    """Returns an MLP 16-128-1 on pairs of word2vec embeddings of temporal walks; give --task linkpred-GRAPH."""
    return Recipe(
        task="linkpred-CollegeMsg-temporal",
        model="mlp",
        hidden=(128,),
        sparsity=0.9,
        distribution="uniform",
        every=50,
        c=1e-2,
        options=("dst_ee.c_decay=0.9",),
        lr=0.1,
        weight_decay=5e-4,
        epochs=50,
        batch_size=1024,
        validation=0.25,
    )


def gcn() -> Recipe:
    """Returns a graph convolutional network of two layers with learned embeddings; give --task gnn-GRAPH."""
    return Recipe(
        task="gnn-planetoid-cora",
        model="gcn",
        sparsity=0.9,
        distribution="uniform",
        every=10,
        optimizer="adamw",
        lr=0.01,
        weight_decay=0.0,
        schedule="constant",
        epochs=300,
        validation=0.05 / 0.9,
    )


def graphsage() -> Recipe:
    """Returns GraphSAGE of two layers with learned embeddings; give --task gnn-GRAPH."""
    return replace(gcn(), model="graphsage")
