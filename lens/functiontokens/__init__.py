"""Function tokens: which features the most frequent tokens switch on, and what remains of that after a control.

The third lens (arXiv 2510.08203), with the null that the paper doesn't report. :mod:`features` offers bases of features
(sparse autoencoders and MLP neurons) for a loaded model; token statistics, graph, prompt and steering build on them.
"""
