"""pydensecrf's interface on fastseg's engine: existing code changes its imports and nothing else.

    import fastseg.compat.pydensecrf.densecrf as dcrf
    from fastseg.compat.pydensecrf.utils import unary_from_softmax

Modules, names, argument order, defaults, signs and results are pydensecrf's, down to the way it
pads its input when the number of points is not a multiple of four. New code is better served by
`fastseg.crf`, which takes any dtype and layout, volumes, batches and torch tensors.

Where the two differ, and only there:

- what pydensecrf answers with undefined memory, a crash or a silently wrong number raises an
  error here: a unary of the wrong shape, a label outside the range, NaN, a sigma of zero;
- read-only arrays are accepted, `ConstUnary` and `LogisticUnary` can be used more than once, and
  the classes can be subclassed;
- the matrices that inference returns are laid out row by row and, besides supporting the buffer
  protocol, are arrays themselves;
- an energy of +inf means probability zero, also where pydensecrf's `klDivergence` gives NaN.
"""
