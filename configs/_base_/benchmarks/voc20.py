# Pascal VOC 2012 without background, which is ignored as the borders of objects are
_base_ = ['./voc21.py']
benchmark = dict(name='voc20')
val_dataloader = dict(
    dataset=dict(
        metainfo=dict(
            classes=(
                'aeroplane',
                'bicycle',
                'bird',
                'boat',
                'bottle',
                'bus',
                'car',
                'cat',
                'chair',
                'cow',
                'diningtable',
                'dog',
                'horse',
                'motorbike',
                'person',
                'pottedplant',
                'sheep',
                'sofa',
                'train',
                'tvmonitor',
            )
        )
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(label_ids=list(range(1, 21)))
test_evaluator = val_evaluator
custom_hooks = [dict(type='VocabularyHook', vocabulary='voc20')]
