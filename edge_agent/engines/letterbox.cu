// From a picture to an engine's input in one pass: letterbox, normalise, part the channels.
// The same as edge_agent/masking/preprocess.py does on the CPU, to within one grey level and almost always to the bit:
// weights are in fixed point, as OpenCV's are. A test compares the two.
// letterbox.ptx is made of this file by scripts/ptx.sh. It keeps to C, so that the test can compile it without a GPU.

#ifdef __cplusplus
extern "C" {
#endif

// Of the picture as it is after its reduction by a whole factor: the mean of factor × factor pixels, rounded.
__device__ static int reduced(const unsigned char *picture, int stride, int factor, int x, int y, int channel)
{
    const unsigned char *first = picture + y * factor * stride + x * factor * 3 + channel;
    if (factor == 1) {
        return *first;
    }
    int sum = 0;
    for (int down = 0; down < factor; ++down) {
        for (int right = 0; right < factor; ++right) {
            sum += first[down * stride + right * 3];
        }
    }
    return (sum + factor * factor / 2) / (factor * factor);
}

// One thread for each pixel of the input, all three channels.
//
// picture: uint8, height × stride bytes, blue, green, red.
// input: float32, 3 × height × width.
// stride: bytes from one row of the picture to the next.
// reduced_*: size of the picture after reduction by factor.
// filled_*: size of the part of the input that the picture fills, from its top left corner.
// rgb: 1 where the first channel of the input is red, 0 where it is blue.
__global__ void letterbox(const unsigned char *picture, float *input, int stride, int factor, int reduced_width,
                          int reduced_height, int filled_width, int filled_height, int width, int height, int rgb,
                          float mean, float scale)
{
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) {
        return;
    }
    const int inside = x < filled_width && y < filled_height;
    // Bilinear between the centres of pixels; at the edges the outermost pixel goes on.
    float right = ((float)x + 0.5f) * ((float)reduced_width / (float)filled_width) - 0.5f;
    float down = ((float)y + 0.5f) * ((float)reduced_height / (float)filled_height) - 0.5f;
    right = right < 0.0f ? 0.0f : right > (float)(reduced_width - 1) ? (float)(reduced_width - 1) : right;
    down = down < 0.0f ? 0.0f : down > (float)(reduced_height - 1) ? (float)(reduced_height - 1) : down;
    const int left = (int)right, above = (int)down;
    const int next = left + 1 < reduced_width ? left + 1 : left;
    const int below = above + 1 < reduced_height ? above + 1 : above;
    const int to_right = (int)((right - (float)left) * 2048.0f + 0.5f);
    const int to_below = (int)((down - (float)above) * 2048.0f + 0.5f);
    for (int channel = 0; channel < 3; ++channel) {
        int value = 0;
        if (inside) {
            const int upper = reduced(picture, stride, factor, left, above, channel) * (2048 - to_right)
                              + reduced(picture, stride, factor, next, above, channel) * to_right;
            const int lower = reduced(picture, stride, factor, left, below, channel) * (2048 - to_right)
                              + reduced(picture, stride, factor, next, below, channel) * to_right;
            value = (((upper >> 4) * (2048 - to_below) >> 16) + ((lower >> 4) * to_below >> 16) + 2) >> 2;
        }
        input[((rgb ? 2 - channel : channel) * height + y) * width + x] = ((float)value - mean) * scale;
    }
}

#ifdef __cplusplus
}
#endif
