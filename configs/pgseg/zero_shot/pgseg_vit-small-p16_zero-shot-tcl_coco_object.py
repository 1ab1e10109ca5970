# As TCL and SCLIP evaluate: every class by its synonyms, of which the best one counts
_base_ = ['./pgseg_vit-small-p16_zero-shot_coco_object.py']
custom_hooks = [dict(type='VocabularyHook', vocabulary='coco_object_synonyms')]
