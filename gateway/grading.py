"""placeholder"""


class Grading:
    @classmethod
    def load(cls):
        raise NotImplementedError
