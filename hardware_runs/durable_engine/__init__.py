"""The engine that survives: a forward pass of any `nn.Module`, frozen, sent once, collected later.

`beginning` opens a run, `engine` is asked by the layers, `dispatch` sends, `collecting` takes back,
`services` is where jobs are done. May import `ledger` and whatever is below this package.
"""
