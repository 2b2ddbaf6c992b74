"""How images lie in memory."""

import keras


def check_layout() -> None:
    """ValueError unless Keras's layers expect images `(H, W, C)`, as they do by default."""
    if (found := keras.config.image_data_format()) != "channels_last":
        raise ValueError(
            "Expected Keras's image_data_format to be 'channels_last', since images are (height, width, channels): "
            f'call keras.config.set_image_data_format("channels_last") first. Received: {found!r}'
        )
