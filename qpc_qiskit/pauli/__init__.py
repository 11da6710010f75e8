"""Noisy circuits in the Pauli basis, where states, observables and channels are real arrays.

An operator on n qubits is the vector of its 4**n Pauli coefficients. Pauli string P has the index
`sum over q of digit_q * 4**q` with digits 0, 1, 2, 3 for I, X, Y, Z: qubit 0 is the lowest digit.
A state rho is held as r_P = Tr(P rho), so |0> is (1, 0, 0, 1); an observable O as
a_P = Tr(P O) / 2**n; its expectation value is their scalar product. A channel is its Pauli-transfer
matrix R: r' = R r for states, a' = a R for observables.

May import `rows`, `devices`, `circuits` and all below them; the noisy engine is made of it.
"""
