"""The order of the axes of images."""

import keras


def check_layout() -> None:
    """Raise ValueError unless Keras's layers expect images `(H, W, C)`, the default."""
    if (found := keras.config.image_data_format()) != "channels_last":
        raise ValueError(
            "Expected Keras's image_data_format to be 'channels_last', because images are (height, width, channels): "
            f'call keras.config.set_image_data_format("channels_last") first. Received: {found!r}'
        )
