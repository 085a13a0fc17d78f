"""Link prediction: which pairs of nodes of a graph are joined. Nothing here knows of sparsity.

`read_edges` reads any edge list. `link_data` makes of it the examples of a plain MLP (temporal walks, word2vec),
`graph_data` those of message passing (`message_passing`). Neither lets training see what is held out, be it an edge or
a non-edge (`held_out_first`): a network that had learned every other non-edge would know edges by their absence.
"""

from rewire.tasks.graphs.edges import Edges, read_edges
from rewire.tasks.graphs.graph_data import GraphData, graph_data
from rewire.tasks.graphs.link_data import LinkData, link_data

__all__ = ["Edges", "GraphData", "LinkData", "graph_data", "link_data", "read_edges"]
