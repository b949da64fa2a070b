import dataclasses

import headstart as hs


def test_a_data_set_is_shown_in_a_line(digits):
    assert repr(digits) == ("Dataset(digits: 300 for training, 144 for validation, 300 for the test; 10 classes; 8 x 8 pixels)")
    assert repr(digits.source) == "Source(digits: 1,797 images, 10 classes, 8 x 8 pixels)"


def test_a_long_path_makes_no_long_line(digits):
    source = dataclasses.replace(digits.source, name="/photos" * 500)
    for shown in (repr(source), repr(hs.Dataset(source, digits.train, digits.validation, digits.test))):
        assert len(shown) < 300
